//! Apache Kafka as Maven has it: jars in a cache folder, fetched once.

use super::HarnessError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// The version that scenarios run on unless they ask for another.
pub const KAFKA_VERSION: &str = "4.3.1";

/// Whether missing jars may be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// By Maven, into the cache.
    Allowed,
    /// Missing jars are an error.
    Forbidden,
}

/// The jars of one Kafka version.
#[derive(Debug, Clone)]
pub struct Jars {
    folder: PathBuf,
}

impl Jars {
    /// Finds the jars of `version` in the cache (`target/kafka-jars`), or fetches them.
    ///
    /// # Errors
    /// `NoJars` if they are missing and may not be fetched; `Spawn` or `Ended` if Maven fails.
    pub async fn locate(version: &str, fetch: Fetch) -> Result<Self, HarnessError> {
        let cache = cache();
        let folder = cache.join(version);
        // The folder gets its name only when it is complete.
        if folder.is_dir() {
            return Ok(Self { folder });
        }
        if fetch == Fetch::Forbidden {
            return Err(HarnessError::NoJars {
                version: version.to_owned(),
                folder,
            });
        }
        fs::create_dir_all(&cache)
            .map_err(HarnessError::io(format!("create {}", cache.display())))?;
        let part = tempfile::tempdir_in(&cache).map_err(HarnessError::io("create a folder"))?;
        copy(version, part.path()).await?;
        let renamed = fs::rename(part.path().join("lib"), &folder);
        // Another process may have been faster; its jars are as good.
        if folder.is_dir() {
            Ok(Self { folder })
        } else {
            renamed.map_err(HarnessError::io(format!("rename to {}", folder.display())))?;
            Ok(Self { folder })
        }
    }

    /// What `java -cp` takes.
    pub fn class_path(&self) -> String {
        format!("{}/*", self.folder.display())
    }

    /// A `java` command for a main class among the jars.
    pub fn java(&self, options: &[&str], main_class: &str) -> Command {
        let mut command = Command::new("java");
        command
            .args(options)
            .arg("-cp")
            .arg(self.class_path())
            .arg(main_class);
        command
    }
}

fn cache() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.parent().unwrap_or(manifest);
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target
        .unwrap_or_else(|| root.join("target"))
        .join("kafka-jars")
}

async fn copy(version: &str, folder: &Path) -> Result<(), HarnessError> {
    let pom = folder.join("pom.xml");
    fs::write(&pom, project(version)).map_err(HarnessError::io("write pom.xml"))?;
    let mut command = Command::new("mvn");
    command
        .args(["--batch-mode", "--quiet", "--file"])
        .arg(&pom);
    command.arg("dependency:copy-dependencies");
    command.arg(format!(
        "-DoutputDirectory={}",
        folder.join("lib").display()
    ));
    command.stdin(Stdio::null()).kill_on_drop(true);
    eprintln!("fetching Kafka {version} with Maven");
    let output = command
        .output()
        .await
        .map_err(|source| HarnessError::Spawn {
            program: "mvn".to_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(HarnessError::Ended {
        program: "mvn".to_owned(),
        status: output.status.to_string(),
        tail: String::from_utf8_lossy(&said).into_owned(),
    })
}

fn project(version: &str) -> String {
    // Kafka 3 brings a logger of its own, which says nothing without a configuration.
    let dependency = |group: &str, name: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>\
             <version>{version}</version><exclusions><exclusion><groupId>org.slf4j</groupId>\
             <artifactId>slf4j-reload4j</artifactId></exclusion></exclusions></dependency>\n"
        )
    };
    let dependencies = [
        dependency("org.apache.kafka", "kafka_2.13", version),
        dependency("org.apache.kafka", "kafka-tools", version),
        dependency("org.slf4j", "slf4j-simple", "1.7.36"),
    ]
    .concat();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n\
         <modelVersion>4.0.0</modelVersion>\n\
         <groupId>ottla</groupId><artifactId>kafka-jars</artifactId><version>1</version>\n\
         <dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )
}
