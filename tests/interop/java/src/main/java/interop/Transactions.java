package interop;

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListTransactionsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Transactions by the Java clients: commit and abort, fencing, time-outs, exactly once from topic to topic, and what
 *  the admin client sees of them. */
public final class Transactions {
    private static final int PARTITIONS = 3;
    private final String bootstrap;
    private final String topic;

    private Transactions(String bootstrap, String topic) {
        this.bootstrap = bootstrap;
        this.topic = topic;
    }

    public static void main(String[] arguments) throws Exception {
        Transactions program = new Transactions(arguments[0], arguments[1]);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            String output = arguments[1] + "-output";
            admin.createTopics(Set.of(new NewTopic(arguments[1], PARTITIONS, (short) 1),
                new NewTopic(output, PARTITIONS, (short) 1))).all().get();
            program.commitsAndAborts(admin);
            program.exactlyOnce(output, arguments[1] + "-group");
            program.fencing();
            program.timeOut(admin);
            program.hanging(admin);
        }
    }

    private KafkaProducer<String, String> producer(String transactionalId, int timeoutMs) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("transactional.id", topic + "-" + transactionalId);
        settings.put("transaction.timeout.ms", timeoutMs);
        settings.put("linger.ms", 1);
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    private KafkaConsumer<String, String> consumer(String group) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("group.id", group);
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", false);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    private int committedRecords(String of, int atLeast) {
        try (KafkaConsumer<String, String> reader = consumer("unused")) {
            List<TopicPartition> partitions = new ArrayList<>();
            for (int index = 0; index < PARTITIONS; index++) {
                partitions.add(new TopicPartition(of, index));
            }
            reader.assign(partitions);
            reader.seekToBeginning(partitions);
            Map<TopicPartition, Long> ends = reader.endOffsets(partitions);
            int count = 0;
            long deadline = System.nanoTime() + Duration.ofSeconds(30).toNanos();
            while (System.nanoTime() < deadline) {
                for (ConsumerRecord<String, String> record : reader.poll(Duration.ofMillis(100))) {
                    count += record.value().startsWith("aborted") ? 1_000_000 : 1;
                }
                boolean done = ends.entrySet().stream().allMatch(end -> reader.position(end.getKey()) >= end.getValue());
                if (done && count >= atLeast) {
                    break;
                }
                ends = reader.endOffsets(partitions);
            }
            return count;
        }
    }

    private void commitsAndAborts(Admin admin) throws Exception {
        try (KafkaProducer<String, String> producer = producer("simple", 60_000)) {
            producer.initTransactions();
            for (int round = 0; round < 40; round++) {
                boolean aborts = round % 4 == 3;
                producer.beginTransaction();
                for (int number = 0; number < 30; number++) {
                    producer.send(new ProducerRecord<>(topic, number % PARTITIONS, null, (aborts ? "aborted" : "") + number));
                }
                if (aborts) {
                    producer.flush();
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
            }
            Client.check("committed records", committedRecords(topic, 900));
            String id = topic + "-simple";
            Client.check("described", admin.describeTransactions(Set.of(id)).description(id).get().state().toString());
            Client.check("listed", admin.listTransactions(new ListTransactionsOptions().filterOnTransactionalIdPattern(topic + "-s.*"))
                .all().get().size());
        }
    }

    private void exactlyOnce(String output, String group) throws Exception {
        try (KafkaConsumer<String, String> reader = consumer(group);
             KafkaProducer<String, String> producer = producer("transform", 60_000)) {
            producer.initTransactions();
            reader.subscribe(Set.of(topic));
            int moved = 0;
            int rounds = 0;
            while (moved < 900) {
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                var records = reader.poll(Duration.ofMillis(200));
                if (records.isEmpty()) {
                    continue;
                }
                producer.beginTransaction();
                boolean aborts = rounds++ % 3 == 0;
                for (ConsumerRecord<String, String> record : records) {
                    producer.send(new ProducerRecord<>(output, record.partition(), null, (aborts ? "aborted" : "") + record.value()));
                    offsets.put(new TopicPartition(topic, record.partition()), new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(offsets, reader.groupMetadata());
                if (aborts) {
                    producer.abortTransaction();
                    for (TopicPartition partition : reader.assignment()) {
                        OffsetAndMetadata committed = reader.committed(Set.of(partition)).get(partition);
                        reader.seek(partition, committed == null ? 0 : committed.offset());
                    }
                } else {
                    producer.commitTransaction();
                    moved += records.count();
                }
            }
            Client.check("moved", committedRecords(output, 900));
            Map<String, Long> left = new TreeMap<>();
            reader.committed(reader.assignment()).forEach((partition, at) ->
                left.put(partition.toString(), reader.endOffsets(Set.of(partition)).get(partition) - at.offset()));
            Client.check("left to read", left.values().stream().allMatch(count -> count <= 12));
        }
    }

    private void fencing() throws Exception {
        try (KafkaProducer<String, String> first = producer("twins", 60_000);
             KafkaProducer<String, String> second = producer("twins", 60_000)) {
            first.initTransactions();
            first.beginTransaction();
            first.send(new ProducerRecord<>(topic, 0, null, "aborted by a twin")).get();
            second.initTransactions();
            second.beginTransaction();
            second.send(new ProducerRecord<>(topic, 0, null, "of the second")).get();
            Client.check("fenced", failure(() -> first.commitTransaction()));
            second.commitTransaction();
        }
        Client.check("after fencing", committedRecords(topic, 901));
    }

    private void timeOut(Admin admin) throws Exception {
        String id = topic + "-slow";
        try (KafkaProducer<String, String> slow = producer("slow", 1_000)) {
            slow.initTransactions();
            slow.beginTransaction();
            slow.send(new ProducerRecord<>(topic, 0, null, "aborted by time")).get();
            Client.check("open", admin.describeTransactions(Set.of(id)).description(id).get().state().toString());
            long deadline = System.nanoTime() + Duration.ofSeconds(20).toNanos();
            String state = "";
            while (!state.equals("CompleteAbort") && System.nanoTime() < deadline) {
                Thread.sleep(50);
                state = admin.describeTransactions(Set.of(id)).description(id).get().state().toString();
            }
            Client.check("timed out", state);
            Client.check("too late", failure(() -> slow.commitTransaction()));
        }
        Client.check("after the time-out", committedRecords(topic, 901));
    }

    private void hanging(Admin admin) throws Exception {
        TopicPartition partition = new TopicPartition(topic, 1);
        try (KafkaProducer<String, String> producer = producer("hanging", 600_000)) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>(topic, 1, null, "aborted by hand")).get();
            ProducerState open = admin.describeProducers(Set.of(partition)).partitionResult(partition).get().activeProducers()
                .stream().filter(state -> state.currentTransactionStartOffset().isPresent()).findFirst().orElseThrow();
            admin.abortTransaction(new AbortTransactionSpec(partition, open.producerId(), (short) open.producerEpoch(),
                open.coordinatorEpoch().orElse(0))).all().get();
            long stillOpen = admin.describeProducers(Set.of(partition)).partitionResult(partition).get().activeProducers()
                .stream().filter(state -> state.currentTransactionStartOffset().isPresent()).count();
            Client.check("still open", stillOpen);
            producer.abortTransaction();
        }
        Client.check("after the abort by hand", committedRecords(topic, 901));
    }

    private interface Step {
        void run() throws Exception;
    }

    private static String failure(Step step) {
        try {
            step.run();
            return "none";
        } catch (TimeoutException error) {
            throw error;
        } catch (ExecutionException error) {
            return error.getCause().getClass().getSimpleName();
        } catch (Exception error) {
            return error.getClass().getSimpleName();
        }
    }
}
