package interop;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.utils.internals.Exit;

import static java.nio.charset.StandardCharsets.UTF_8;

/** Calls the main methods of Kafka's tools one after another in one process, which starts once. A line of JSON for each
 *  call: {"main": class, "arguments": [...], "input": text}, and one for what came of it: {"exit", "out", "err"}. */
public final class ToolShell {
    private static final ObjectMapper JSON = new ObjectMapper();

    private ToolShell() {
    }

    /** Thrown where a tool would end its process. Some catch even that: what they print then has this class's name. */
    private static final class Ended extends Error {
        private static final long serialVersionUID = 1L;

        Ended() {
            super("interop.ToolShell ended it", null, false, false);
        }
    }

    private static Integer exitCode;
    private static final List<Runnable> HOOKS = new ArrayList<>();

    private static void end(int code, String message) {
        if (exitCode == null)
            exitCode = code;
        throw new Ended();
    }

    public static void main(String[] none) throws Exception {
        Exit.setExitProcedure(ToolShell::end);
        Exit.setHaltProcedure(ToolShell::end);
        Exit.setShutdownHookAdder((name, hook) -> HOOKS.add(hook));
        PrintStream answers = System.out;
        BufferedReader calls = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        String line;
        while ((line = calls.readLine()) != null) {
            String answer = JSON.writeValueAsString(call(JSON.readTree(line)));
            answers.write((answer + "\n").getBytes(UTF_8));
            answers.flush();
        }
    }

    private static Map<String, Object> call(JsonNode call) throws Exception {
        List<String> arguments = new ArrayList<>();
        call.get("arguments").forEach(argument -> arguments.add(argument.asText()));
        InputStream in = System.in;
        PrintStream out = System.out;
        PrintStream err = System.err;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        ByteArrayOutputStream complained = new ByteArrayOutputStream();
        System.setIn(new ByteArrayInputStream(call.get("input").asText().getBytes(UTF_8)));
        System.setOut(new PrintStream(printed, true, UTF_8));
        System.setErr(new PrintStream(complained, true, UTF_8));
        exitCode = null;
        HOOKS.clear();
        try {
            Class.forName(call.get("main").asText()).getMethod("main", String[].class)
                .invoke(null, (Object) arguments.toArray(new String[0]));
        } catch (InvocationTargetException thrown) {
            if (!(thrown.getCause() instanceof Ended)) {
                thrown.getCause().printStackTrace();  // as the virtual machine does, which ends with 1 then
                exitCode = 1;
            }
        } finally {
            HOOKS.forEach(Runnable::run);  // in one of them the console producer waits for what it has sent
            System.setIn(in);
            System.setOut(out);
            System.setErr(err);
        }
        return Map.of("exit", exitCode == null ? 0 : exitCode,
            "out", printed.toString(UTF_8), "err", complained.toString(UTF_8));
    }
}
