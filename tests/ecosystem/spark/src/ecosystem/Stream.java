package ecosystem;

import static org.apache.spark.sql.functions.col;
import static org.apache.spark.sql.functions.upper;

import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;

/**
 * Reads topic PREFIX-in with Structured Streaming, and writes it in capitals to topic PREFIX-out and as it is to JSON files.
 *
 * <p>Arguments: bootstrap servers, prefix, folder (for checkpoints and files).
 */
public final class Stream {
    private Stream() {
    }

    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0];
        String prefix = arguments[1];
        String folder = arguments[2];
        SparkSession session = SparkSession.builder()
            .master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.sql.shuffle.partitions", "2")
            .getOrCreate();
        Dataset<Row> records = session.readStream()
            .format("kafka")
            .option("kafka.bootstrap.servers", bootstrap)
            .option("subscribe", prefix + "-in")
            .option("startingOffsets", "earliest")
            .option("kafka.isolation.level", "read_committed")
            .option("maxOffsetsPerTrigger", "400")
            .load();
        StreamingQuery toTopic = records
            .select(col("key"), upper(col("value").cast("string")).as("value"))
            .writeStream()
            .format("kafka")
            .option("kafka.bootstrap.servers", bootstrap)
            .option("topic", prefix + "-out")
            .option("checkpointLocation", folder + "/checkpoint-topic")
            .start();
        StreamingQuery toFiles = records
            .select(col("key").cast("string"), col("value").cast("string"), col("partition"), col("offset"), col("timestamp"))
            .writeStream()
            .format("json")
            .option("path", folder + "/files")
            .option("checkpointLocation", folder + "/checkpoint-files")
            .start();
        System.out.println("queries started");
        session.streams().awaitAnyTermination();
        throw new IllegalStateException("a query ended: " + toTopic.exception() + ", " + toFiles.exception());
    }
}
