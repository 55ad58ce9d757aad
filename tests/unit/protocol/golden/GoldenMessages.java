// Writes the golden file: what Kafka's own Java code makes of the messages that samples.py describes.
//
//   python -m tests.unit.protocol.golden_file describe > samples.tsv
//   java -cp kafka-clients.jar:kafka-group-coordinator.jar:kafka-transaction-coordinator.jar:jackson...:slf4j-api.jar \
//       GoldenMessages.java < samples.tsv | python -m tests.unit.protocol.golden_file write
//
// In:  class name, version, JSON.   Out: class name, version, base64 of the serialised message; "-" where it cannot be made.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.InvocationTargetException;
import java.util.Base64;
import java.util.List;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.MessageUtil;

public class GoldenMessages {
    private static final List<String> PACKAGES = List.of(
        "org.apache.kafka.common.message.",
        "org.apache.kafka.coordinator.group.generated.",
        "org.apache.kafka.coordinator.transaction.generated.");

    public static void main(String[] arguments) throws Exception {
        ObjectMapper mapper = new ObjectMapper();
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] parts = line.split("\t");
            short version = Short.parseShort(parts[1]);
            System.out.println(parts[0] + "\t" + version + "\t" + serialised(parts[0], version, mapper.readTree(parts[2])));
        }
    }

    private static String serialised(String name, short version, JsonNode json) throws Exception {
        Class<?> converter = converterOf(name);
        try {
            Message message = (Message) converter.getMethod("read", JsonNode.class, short.class).invoke(null, json, version);
            ByteBufferAccessor accessor = MessageUtil.toByteBufferAccessor(message, version);
            byte[] bytes = new byte[accessor.buffer().remaining()];
            accessor.buffer().get(bytes);
            return Base64.getEncoder().encodeToString(bytes);
        } catch (InvocationTargetException error) {
            System.err.println(name + " " + version + ": " + error.getCause());
            return "-";
        }
    }

    private static Class<?> converterOf(String name) throws ClassNotFoundException {
        for (String prefix : PACKAGES) {
            for (String suffix : List.of("DataJsonConverter", "JsonConverter")) {
                try {
                    return Class.forName(prefix + name + suffix);
                } catch (ClassNotFoundException tryNext) {
                    // in another package
                }
            }
        }
        throw new ClassNotFoundException(name);
    }
}
