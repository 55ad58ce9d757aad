// Prints every broker, topic, group and client-metrics config of the Apache Kafka on the class path as JSON.
// Run by tools/generate_config_definitions.py; reflection reaches the fields that validators keep private.

import com.fasterxml.jackson.databind.ObjectMapper;
import java.lang.reflect.Field;
import java.util.*;
import org.apache.kafka.common.config.ConfigDef;

public class DumpConfigDefinitions {
    static Object field(Object object, String name) throws Exception {
        Field field = object.getClass().getDeclaredField(name);
        field.setAccessible(true);
        return field.get(object);
    }

    static Object validator(Object validator) throws Exception {
        if (validator == null) return null;
        Map<String, Object> out = new LinkedHashMap<>();
        String kind = validator.getClass().getName();
        kind = kind.substring(kind.lastIndexOf('.') + 1).replace("ConfigDef$", "");
        if (kind.contains("$$Lambda")) kind = "Lambda";
        out.put("kind", kind);
        for (Field field : validator.getClass().getDeclaredFields()) {
            if (java.lang.reflect.Modifier.isStatic(field.getModifiers())) continue;
            field.setAccessible(true);
            Object value = field.get(validator);
            if (value instanceof ConfigDef.Validator) value = validator(value);
            else if (value instanceof List) {
                List<Object> values = new ArrayList<>();
                for (Object item : (List<?>) value) values.add(item instanceof ConfigDef.Validator ? validator(item) : item);
                value = values;
            } else if (value instanceof Set) value = new ArrayList<>(new TreeSet<>((Set<?>) value));
            else if (!(value instanceof Number || value instanceof Boolean || value == null)) value = value.toString();
            out.put(field.getName(), value);
        }
        try { out.put("text", validator.toString()); } catch (RuntimeException e) { out.put("text", null); }
        return out;
    }

    static Object definitions(ConfigDef definition) throws Exception {
        Map<String, Object> out = new TreeMap<>();
        for (ConfigDef.ConfigKey key : definition.configKeys().values()) {
            Map<String, Object> entry = new LinkedHashMap<>();
            entry.put("type", key.type().name());
            if (key.hasDefault()) {
                Object value = key.defaultValue;
                entry.put("default", value == null ? null : ConfigDef.convertToString(value, key.type()));
            } else entry.put("required", true);
            entry.put("importance", key.importance.name());
            entry.put("validator", validator(key.validator));
            entry.put("internal", key.internalConfig);
            entry.put("doc", key.documentation);
            out.put(key.name, entry);
        }
        return out;
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, Object> out = new LinkedHashMap<>();
        out.put("broker", definitions(kafka.server.KafkaConfig.configDef()));
        out.put("topic", definitions(org.apache.kafka.storage.internals.log.LogConfig.configDefCopy()));
        out.put("group", definitions(org.apache.kafka.coordinator.group.GroupConfig.CONFIG_DEF));
        out.put("client_metrics", definitions(org.apache.kafka.server.metrics.ClientMetricsConfigs.configDef()));
        Map<String, Object> topicSynonyms = new TreeMap<>();
        for (var entry : org.apache.kafka.server.config.ServerTopicConfigSynonyms.ALL_TOPIC_CONFIG_SYNONYMS.entrySet()) {
            List<Object> synonyms = new ArrayList<>();
            for (var synonym : entry.getValue()) {
                Object converted = null;
                try { converted = synonym.converter().apply("7"); } catch (RuntimeException e) { /* no number: no unit */ }
                synonyms.add(List.of(synonym.name(), String.valueOf(converted)));
            }
            topicSynonyms.put(entry.getKey(), synonyms);
        }
        out.put("topic_synonyms", topicSynonyms);
        Map<String, Object> groupSynonyms = new TreeMap<>();
        org.apache.kafka.coordinator.group.GroupConfig.ALL_GROUP_CONFIG_SYNONYMS.forEach((k, v) -> groupSynonyms.put(k, v.orElse(null)));
        out.put("group_synonyms", groupSynonyms);
        out.put("update_modes", new TreeMap<>(org.apache.kafka.server.config.DynamicBrokerConfig.dynamicConfigUpdateModes()));
        out.put("all_dynamic", new TreeSet<>(org.apache.kafka.server.config.DynamicBrokerConfig.ALL_DYNAMIC_CONFIGS));
        Map<String, Object> brokerSynonyms = new TreeMap<>();
        for (String name : kafka.server.KafkaConfig.configDef().names())
            brokerSynonyms.put(name, org.apache.kafka.server.config.DynamicBrokerConfig.brokerConfigSynonyms(name, false));
        out.put("broker_synonyms", brokerSynonyms);
        new ObjectMapper().writeValue(System.out, out);
    }
}
