package ecosystem;

import java.util.Arrays;

import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.functions;

/**
 * Prints every row of a topic's table as "row TAB reader TAB JSON", all its columns, and what Spark itself adds up.
 *
 * <p>Reader "iceberg" knows the URL of the catalog alone, "parquet" the folder of the files alone. Arguments: the URL, the
 * topic, the folder or "-", further settings of the catalog as NAME=VALUE.
 */
public final class Table {
    private Table() {
    }

    public static void main(String[] arguments) {
        String catalog = "spark.sql.catalog.node";
        SparkSession.Builder builder = SparkSession.builder()
            .master("local[1]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.sql.session.timeZone", "UTC")
            .config(catalog, "org.apache.iceberg.spark.SparkCatalog")
            .config(catalog + ".type", "rest")
            .config(catalog + ".uri", arguments[0]);
        for (String setting : Arrays.asList(arguments).subList(3, arguments.length)) {
            String[] parts = setting.split("=", 2);
            builder = builder.config(catalog + "." + parts[0], parts[1]);
        }
        SparkSession spark = builder.getOrCreate();
        print("iceberg", spark.table("node.bytemq.`" + arguments[1] + "`"));
        if (!arguments[2].equals("-")) {
            print("parquet", spark.read()
                .option("recursiveFileLookup", "true")
                .option("mergeSchema", "true")
                .parquet(arguments[2]));
        }
        spark.stop();
    }

    private static void print(String reader, Dataset<Row> table) {
        Row sums = table.agg(functions.count("*"), functions.sum("offset"), functions.sum("timestamp_ms")).first();
        System.out.println("sums\t" + reader + "\t" + sums.getLong(0) + "\t" + sums.getLong(1) + "\t" + sums.getLong(2));
        for (Row row : table.select(functions.to_json(functions.struct("*"))).collectAsList()) {
            System.out.println("row\t" + reader + "\t" + row.getString(0));
        }
    }
}
