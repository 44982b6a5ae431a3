package interop;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.lang.reflect.Field;
import java.util.List;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * Apache's mqadmin, unmodified: one command per line of standard input, its words separated by tabs,
 * and a line with DONE behind what it printed. One process for all: a start takes seconds.
 */
public final class MQAdmin {
    public static void main(String[] args) throws Exception {
        String nameServer = System.getProperty("rocketmq.namesrv.addr");
        Field commands = MQAdminStartup.class.getDeclaredField("SUB_COMMANDS");
        commands.setAccessible(true);
        System.setErr(System.out);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            // As a process of its own would begin: commands keep their clients, and -n is global.
            ((List<?>) commands.get(null)).clear();
            System.setProperty("rocketmq.namesrv.addr", nameServer);
            MQAdminStartup.main0(line.split("\t"), null);
            System.out.println("\nDONE");
            System.out.flush();
        }
        System.exit(0); // clients leave threads behind
    }
}
