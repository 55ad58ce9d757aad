package ecosystem;

import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/** Prints "offset TAB value" of every row of a topic's Iceberg table, known by the URL of the catalog alone. */
public final class Table {
    public static void main(String[] arguments) {
        SparkSession spark = SparkSession.builder()
            .master("local[1]")
            .config("spark.ui.enabled", "false")
            .config("spark.sql.catalog.node", "org.apache.iceberg.spark.SparkCatalog")
            .config("spark.sql.catalog.node.type", "rest")
            .config("spark.sql.catalog.node.uri", arguments[0])
            .getOrCreate();
        String query = "select offset, cast(value as string) from node.bytemq.`" + arguments[1] + "` order by offset";
        for (Row row : spark.sql(query).collectAsList()) {
            System.out.println("row\t" + row.getLong(0) + "\t" + row.getString(1));
        }
        spark.stop();
    }
}
