import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.Cluster;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Asks a KafkaProducer with its default partitioner where each key goes. No broker is needed: the
 * producer's own choice is called with a cluster made here. It answers -1 where the record
 * accumulator chooses later (the sticky partition); that is written as "random".
 */
public class Vectors {
    public static void main(String[] args) throws Exception {
        int[] counts = {1, 2, 3, 7, 12, 100};
        Properties config = new Properties();
        config.put("bootstrap.servers", "127.0.0.1:1");
        var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer());
        var partition = KafkaProducer.class.getDeclaredMethod(
            "partition", ProducerRecord.class, byte[].class, byte[].class, Cluster.class);
        partition.setAccessible(true);
        for (String line : Files.readAllLines(Path.of(args[0]))) {
            if (line.startsWith("#")) continue;
            byte[] key = switch (line) {
                case "null" -> null;
                case "empty" -> new byte[0];
                default -> HexFormat.of().parseHex(line);
            };
            var row = new StringBuilder("java-4.3.1\tdefault\t" + line);
            for (int count : counts) {
                var record = new ProducerRecord<>("t", key, new byte[0]);
                int chosen = (int) partition.invoke(producer, record, key, new byte[0], cluster(count));
                row.append('\t').append(chosen < 0 ? "random" : Integer.toString(chosen));
            }
            System.out.println(row);
        }
        producer.close(java.time.Duration.ZERO);
    }

    private static Cluster cluster(int count) {
        Node node = new Node(0, "127.0.0.1", 1);
        Node[] nodes = {node};
        List<PartitionInfo> partitions = new ArrayList<>();
        for (int p = 0; p < count; p++) partitions.add(new PartitionInfo("t", p, node, nodes, nodes));
        return new Cluster("c", List.of(node), partitions, Set.of(), Set.of());
    }
}
