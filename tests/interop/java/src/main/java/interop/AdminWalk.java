package interop;

import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.DescribeProducersOptions;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;

/** Everything the admin client offers for a topic and a classic group; each answer is printed for the test to judge. */
final class AdminWalk implements AutoCloseable {
    private final Admin admin;
    private final String topic;
    private final String group;

    AdminWalk(String bootstrap, String topic, String group) {
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", 30_000));
        this.topic = topic;
        this.group = group;
    }

    @Override
    public void close() {
        admin.close();
    }

    void createTopic() throws Exception {
        NewTopic wanted = new NewTopic(topic, 3, (short) 1).configs(Map.of("retention.ms", "86400000000"));
        var created = admin.createTopics(Set.of(wanted));
        created.all().get();
        Client.check("created", List.of(created.numPartitions(topic).get(), created.replicationFactor(topic).get(),
            created.config(topic).get().get("retention.ms").value()));
        Client.check("created again", failure(admin.createTopics(Set.of(wanted)).all()));
    }

    void inspect() throws Exception {
        committedOffsets();
        topicAndOffsets();
        configs();
        group();
        TopicPartition first = new TopicPartition(topic, 0);
        Client.check("producers", admin.describeProducers(Set.of(first), new DescribeProducersOptions())
            .partitionResult(first).get().activeProducers().size());
        Client.check("nodes", admin.describeCluster().nodes().get().size());
        int leader = admin.describeTopics(Set.of(topic)).allTopicNames().get().get(topic).partitions().get(0).leader().id();
        Client.check("log dirs", admin.describeLogDirs(Set.of(leader))
            .allDescriptions().get().values().iterator().next().values().iterator().next().replicaInfos().get(first).size() > 0);
        Client.check("features", admin.describeFeatures().featureMetadata().get() != null);
        Client.check("reassignments", admin.listPartitionReassignments().reassignments().get().size());
    }

    private void committedOffsets() throws Exception {
        Map<TopicPartition, OffsetAndMetadata> committed =
            admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
        for (var entry : committed.entrySet()) {
            Client.print(Map.of("kind", "committed", "partition", entry.getKey().partition(), "offset",
                entry.getValue().offset()));
        }
    }

    private void topicAndOffsets() throws Exception {
        TopicDescription description = admin.describeTopics(Set.of(topic)).allTopicNames().get().get(topic);
        Client.check("partitions", description.partitions().size());
        Client.check("found by id", admin.describeTopics(
            org.apache.kafka.common.TopicCollection.ofTopicIds(Set.of(description.topicId()))).allTopicIds().get().size());
        Client.check("listed", admin.listTopics().names().get().contains(topic));
        Map<String, OffsetSpec> specs = Map.of("earliest", OffsetSpec.earliest(), "latest", OffsetSpec.latest(),
            "maximum timestamp", OffsetSpec.maxTimestamp(), "at a time", OffsetSpec.forTimestamp(1_700_000_000_300L),
            "earliest local", OffsetSpec.earliestLocal());
        for (var spec : specs.entrySet()) {
            Client.check("offset " + spec.getKey(), offset(spec.getValue()));
        }
        TopicPartition first = new TopicPartition(topic, 0);
        Client.check("delete records", admin.deleteRecords(Map.of(first, RecordsToDelete.beforeOffset(10)))
            .lowWatermarks().get(first).get().lowWatermark());
        Client.check("offset after deletion", offset(OffsetSpec.earliest()));
        admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
        Client.check("fewer partitions", failure(admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(2))).all()));
    }

    private long offset(OffsetSpec spec) throws Exception {
        TopicPartition first = new TopicPartition(topic, 0);
        ListOffsetsResultInfo info = admin.listOffsets(Map.of(first, spec)).partitionResult(first).get();
        return info.offset();
    }

    private void configs() throws Exception {
        ConfigResource resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        alter(resource, "max.message.bytes", "2000000");
        Client.check("altered", config(resource, "max.message.bytes"));
        AlterConfigOp delete = new AlterConfigOp(new ConfigEntry("max.message.bytes", ""), AlterConfigOp.OpType.DELETE);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(delete))).all().get();
        Client.check("restored", config(resource, "max.message.bytes"));
        AlterConfigOp bad = new AlterConfigOp(new ConfigEntry("retention.ms", "never"), AlterConfigOp.OpType.SET);
        Client.check("bad value", failure(admin.incrementalAlterConfigs(Map.of(resource, List.of(bad))).all()));
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, "");
        alter(broker, "log.cleaner.threads", "2");
        Client.check("broker default", config(broker, "log.cleaner.threads"));
        AlterConfigOp back = new AlterConfigOp(new ConfigEntry("log.cleaner.threads", ""), AlterConfigOp.OpType.DELETE);
        admin.incrementalAlterConfigs(Map.of(broker, List.of(back))).all().get();
    }

    private void alter(ConfigResource resource, String name, String value) throws Exception {
        AlterConfigOp set = new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(set))).all().get();
    }

    private String config(ConfigResource resource, String name) throws Exception {
        long deadline = System.nanoTime() + 2_000_000_000L;
        Config described = admin.describeConfigs(Set.of(resource)).all().get().get(resource);
        while (described.get(name) == null && System.nanoTime() < deadline) { // a change of the cluster takes effect a little later
            described = admin.describeConfigs(Set.of(resource)).all().get().get(resource);
        }
        return described.get(name).value();
    }

    private void group() throws Exception {
        var description = admin.describeConsumerGroups(Set.of(group)).all().get().get(group);
        Client.check("group", List.of(description.groupState().toString(), description.members().size()));
        Client.check("group listed", admin.listGroups().all().get().stream().anyMatch(g -> g.groupId().equals(group)));
        TopicPartition first = new TopicPartition(topic, 0);
        admin.alterConsumerGroupOffsets(group, Map.of(first, new OffsetAndMetadata(3, "note"))).all().get();
        OffsetAndMetadata read = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(first);
        Client.check("group offset", List.of(read.offset(), read.metadata()));
        admin.deleteConsumerGroupOffsets(group, Set.of(first)).all().get();
        var left = new TreeMap<Integer, Long>();
        admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get()
            .forEach((partition, offset) -> left.put(partition.partition(), offset.offset()));
        Client.check("offsets left", left.keySet());
    }

    void remove() throws Exception {
        admin.deleteConsumerGroups(Set.of(group)).all().get();
        Client.check("group gone", failure(admin.deleteConsumerGroups(Set.of(group)).all()));
        admin.deleteTopics(Set.of(topic)).all().get();
        Client.check("topic gone", failure(admin.deleteTopics(Set.of(topic)).all()));
    }

    private static String failure(KafkaFuture<?> future) throws InterruptedException {
        try {
            future.get();
            return "none";
        } catch (ExecutionException refused) {
            return refused.getCause().getClass().getSimpleName();
        }
    }
}
