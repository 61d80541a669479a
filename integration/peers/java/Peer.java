// The Java client. Its own perf tools send no keys and look at no result, so this does it in their place.

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

public final class Peer {
    private static final int KEYS = 10_000;
    private static final int VALUES = 1_000;

    private final Map<String, String> task = new HashMap<>();
    private final byte[][] keys = new byte[KEYS][];
    private final byte[][] values = new byte[VALUES][];
    private final int records;

    private Peer(String[] words) {
        for (int i = 0; i + 1 < words.length; i += 2) {
            task.put(words[i], words[i + 1]);
        }
        records = number("--records");
        for (int i = 0; i < KEYS; i++) {
            keys[i] = String.format("key-%08d", i).getBytes(StandardCharsets.US_ASCII);
        }
        for (int v = 0; v < VALUES; v++) {
            values[v] = new byte[number("--value-bytes")];
            for (int j = 0; j < values[v].length; j++) {
                values[v][j] = (byte) ('a' + (v + 7 * j) % 26);
            }
        }
    }

    public static void main(String[] words) throws Exception {
        Peer peer = new Peer(words);
        switch (peer.task.get("--mode")) {
            case "consume" -> peer.consume();
            case "latency" -> peer.latency();
            default -> peer.produce();
        }
    }

    private int number(String flag) {
        return Integer.parseInt(task.get(flag));
    }

    private KafkaProducer<byte[], byte[]> producer() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", task.get("--bootstrap"));
        properties.put("acks", "all");
        properties.put("enable.idempotence", "true");
        properties.put("compression.type", "none");
        properties.put("linger.ms", task.get("--linger-ms"));
        properties.put("batch.size", task.get("--batch-bytes"));
        properties.put("buffer.memory", task.get("--buffer-bytes"));
        return new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private ProducerRecord<byte[], byte[]> record(int i) {
        return new ProducerRecord<>(task.get("--topic"), keys[i % KEYS], values[i % VALUES]);
    }

    private void produce() throws Exception {
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            CountDownLatch open = new CountDownLatch(records);
            long started = System.nanoTime();
            for (int i = 0; i < records; i++) {
                producer.send(record(i), (metadata, error) -> {
                    if (error != null) {
                        error.printStackTrace();
                        Runtime.getRuntime().halt(1);
                    }
                    open.countDown();
                });
            }
            open.await();
            tell("\"seconds\":%.6f", (System.nanoTime() - started) / 1e9);
        }
    }

    private void latency() throws Exception {
        int warmUp = number("--warm-up");
        double[] micros = new double[records];
        try (KafkaProducer<byte[], byte[]> producer = producer()) {
            for (int i = 0; i < warmUp; i++) {
                producer.send(record(i)).get();
            }
            long started = System.nanoTime();
            for (int i = 0; i < records; i++) {
                ProducerRecord<byte[], byte[]> record = record(i);
                long sent = System.nanoTime();
                producer.send(record).get();
                micros[i] = (System.nanoTime() - sent) / 1e3;
            }
            double seconds = (System.nanoTime() - started) / 1e9;
            Arrays.sort(micros);
            tell("\"seconds\":%.6f,\"p50_us\":%.1f,\"p99_us\":%.1f", seconds, nearestRank(micros, 0.50),
                    nearestRank(micros, 0.99));
        }
    }

    private static double nearestRank(double[] sorted, double share) {
        return sorted[Math.max((int) Math.ceil(share * sorted.length), 1) - 1];
    }

    private void consume() throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", task.get("--bootstrap"));
        properties.put("group.id", task.get("--group"));
        properties.put("auto.offset.reset", "earliest");
        try (KafkaConsumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(task.get("--topic")));
            int count = 0;
            long sum = 0;
            long first = 0;
            while (count < records) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(500))) {
                    if (count == 0) {
                        first = System.nanoTime();
                    }
                    count++;
                    sum += touch(record.key(), record.value());
                }
            }
            tell("\"seconds\":%.6f,\"sum\":%d", (System.nanoTime() - first) / 1e9, sum);
        }
    }

    private static long touch(byte[] key, byte[] value) {
        return key.length + value.length + key[key.length - 1] + value[0] + value[value.length - 1];
    }

    /** Says it, and keeps the client open until standard input ends. */
    private void tell(String figures, Object... arguments) throws Exception {
        String rest = String.format(Locale.ROOT, figures, arguments);
        System.out.printf("{\"version\":\"%s\",\"records\":%d,%s}%n", AppInfoParser.getVersion(), records, rest);
        System.out.flush();
        while (System.in.read() >= 0) {
            // Whatever comes is not for us.
        }
    }
}
