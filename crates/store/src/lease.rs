//! Leases with fencing tokens: who may publish from an outbox, decided without a clock of its own.

/// The right to publish from an outbox (shard) until a time. The token grows with every new owner,
/// so a store refuses the late writes of an owner that has lost its lease (fencing).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who holds it.
    pub owner: String,
    /// The fencing token.
    pub token: u64,
    /// When it ends unless renewed, in milliseconds since the epoch.
    pub until_ms: i64,
}

/// The one row that a store keeps about a lease. Stores read it, apply these rules and write it back
/// in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseState {
    /// The current holder, or nobody.
    pub owner: Option<String>,
    /// The last token that was given out; 0 before the first.
    pub token: u64,
    /// When the current lease ends.
    pub until_ms: i64,
}

impl LeaseState {
    /// Takes or renews the lease for `owner`; `None` while another owner's lease runs.
    pub fn acquire(&mut self, owner: &str, now_ms: i64, ttl_ms: i64) -> Option<Lease> {
        let mine = self.owner.as_deref() == Some(owner);
        if !mine {
            if self.is_held_by_another(owner, now_ms) {
                return None;
            }
            self.owner = Some(owner.to_owned());
            self.token += 1;
        }
        self.until_ms = now_ms.saturating_add(ttl_ms);
        Some(Lease {
            owner: owner.to_owned(),
            token: self.token,
            until_ms: self.until_ms,
        })
    }

    /// Whether another owner's lease runs: a cheap check before a store opens a write transaction.
    pub fn is_held_by_another(&self, owner: &str, now_ms: i64) -> bool {
        self.owner
            .as_deref()
            .is_some_and(|holder| holder != owner && self.until_ms > now_ms)
    }

    /// Whether `lease` is the current one. One that has run out stays current until another owner
    /// takes over: until then nobody else has written.
    pub fn is_current(&self, lease: &Lease) -> bool {
        self.token == lease.token && self.owner.as_deref() == Some(lease.owner.as_str())
    }

    /// Frees the lease if `lease` is the current one; says whether it was.
    pub fn release(&mut self, lease: &Lease) -> bool {
        let current = self.is_current(lease);
        if current {
            self.owner = None;
            self.until_ms = i64::MIN;
        }
        current
    }
}
