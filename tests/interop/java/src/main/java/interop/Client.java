package interop;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.LinkedHashMap;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** A round trip by the Java producer and consumer, and a walk through the admin client. */
public final class Client {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Duration GIVE_UP = Duration.ofSeconds(60);

    private Client() {
    }

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0];
        String topic = arguments[1];
        String group = arguments[2];
        List<ProducerRecord<byte[], byte[]>> records = readRecords(topic);
        try (AdminWalk admin = new AdminWalk(bootstrap, topic, group)) {
            admin.createTopic();
            produce(bootstrap, arguments[3], records);
            consume(bootstrap, topic, group, arguments[4], records.size());
            admin.inspect();
            admin.remove();
        }
    }

    static void print(Map<String, ?> line) throws Exception {
        System.out.println(JSON.writeValueAsString(line));
    }

    static void check(String name, Object got) throws Exception {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("kind", "check");
        line.put("name", name);
        line.put("got", got);
        print(line);
    }

    private static byte[] decode(JsonNode text) {
        return text.isNull() ? null : Base64.getDecoder().decode(text.asText());
    }

    private static String encode(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }

    private static List<ProducerRecord<byte[], byte[]>> readRecords(String topic) throws Exception {
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            JsonNode given = JSON.readTree(line);
            List<Header> headers = new ArrayList<>();
            for (JsonNode header : given.get("headers")) {
                headers.add(new RecordHeader(header.get(0).asText(), decode(header.get(1))));
            }
            records.add(new ProducerRecord<>(topic, given.get("partition").asInt(), given.get("timestamp_ms").asLong(),
                decode(given.get("key")), decode(given.get("value")), headers));
        }
        return records;
    }

    private static void produce(String bootstrap, String compression, List<ProducerRecord<byte[], byte[]>> records)
            throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "compression.type", compression,
            "enable.idempotence", true, "acks", "all", "linger.ms", 2);
        try (var producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (ProducerRecord<byte[], byte[]> record : records) {
                sent.add(producer.send(record));
            }
            producer.flush();
            for (Future<RecordMetadata> acknowledged : sent) {
                RecordMetadata metadata = acknowledged.get();
                print(Map.of("kind", "produced", "partition", metadata.partition(), "offset", metadata.offset()));
            }
        }
    }

    private static void consume(String bootstrap, String topic, String group, String protocol, int count) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "group.id", group, "group.protocol",
            protocol, "auto.offset.reset", "earliest", "enable.auto.commit", false);
        long deadline = System.nanoTime() + GIVE_UP.toNanos();
        try (var consumer = new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(topic));
            int seen = 0;
            while (seen < count) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("read " + seen + " of " + count + " records");
                }
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    printRecord(record);
                    seen++;
                }
            }
            consumer.commitSync();
        }
    }

    private static void printRecord(ConsumerRecord<byte[], byte[]> record) throws Exception {
        List<List<String>> headers = new ArrayList<>();
        for (Header header : record.headers()) {
            headers.add(List.of(header.key(), encode(header.value())));
        }
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("kind", "record");
        line.put("partition", record.partition());
        line.put("offset", record.offset());
        line.put("key", encode(record.key()));
        line.put("value", encode(record.value()));
        line.put("headers", headers);
        line.put("timestamp_ms", record.timestamp());
        print(line);
    }
}
