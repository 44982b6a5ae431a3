package interop;

import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Apache's Java client, unmodified, as one of four that say in JSON lines what they saw.
 *
 * <p>What every program here prints, and how it is told to stop, is in ../README.md.
 */
public final class Interop {
    private static final String TAG = "interop";
    /** As an application would pause, once the client's own retries are used up. */
    private static final long PAUSE_AFTER_FAILURE_MS = 500;
    /** What a requester grants the replier, who may still be waiting for its queues. */
    private static final long REPLY_WITHIN_MS = 10_000;
    /** The key of the first requests, which may fail: a cold JVM can take seconds for its calls. */
    private static final String HELLO = "hello";

    private final Map<String, String> options = new TreeMap<>();

    public static void main(String[] args) {
        Interop program = new Interop();
        for (int i = 1; i + 1 < args.length; i += 2) {
            program.options.put(args[i].replaceFirst("^--", ""), args[i + 1]);
        }
        int code = 2;
        try {
            switch (args.length == 0 ? "" : args[0]) {
                case "producer":
                    code = program.produce();
                    break;
                case "transactions":
                    code = program.transact();
                    break;
                case "consumer":
                    code = program.consume();
                    break;
                case "check":
                    new Features(program).run(program.option("check"));
                    say("done", Map.of());
                    code = 0;
                    break;
                case "requester":
                    code = program.request();
                    break;
                case "replier":
                    code = program.reply();
                    break;
                default:
                    System.err.println(
                        "usage: interop.Interop producer|transactions|consumer|requester|replier|check …");
            }
        } catch (Exception error) {
            say("error", Map.of("error", String.valueOf(error)));
            code = 1;
        }
        System.exit(code); // the client leaves threads behind
    }

    private int produce() throws Exception {
        DefaultMQProducer producer = producer(option("group"));
        say("ready", Map.of());
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(number("deadline-s", 60));
        long acked = 0;
        long failed = 0;
        int i = 0;
        Message message = null;
        while (acked < number("count", 0) && System.nanoTime() < end) {
            String key = String.format("%s-%06d", option("group"), i);
            byte[] body = ("body of " + key).getBytes(StandardCharsets.UTF_8);
            if (message == null) { // else it is sent again, and has its unique id
                message = new Message(option("topic"), TAG, key, body);
                message.putUserProperty("number", String.valueOf(i));
                message.putUserProperty("third", String.valueOf(i % 3));
            }
            try {
                SendResult result = producer.send(message);
                if (result.getSendStatus() != SendStatus.SEND_OK) {
                    throw new IllegalStateException("status " + result.getSendStatus());
                }
                say("acked", Map.of(
                    "key", key,
                    "broker", result.getMessageQueue().getBrokerName(),
                    "queue", result.getMessageQueue().getQueueId(),
                    "offset", result.getQueueOffset()));
                acked++;
                i++;
                message = null;
            } catch (Exception error) {
                failed++;
                say("failed", Map.of("key", key, "error", String.valueOf(error)));
                Thread.sleep(PAUSE_AFTER_FAILURE_MS);
            }
            Thread.sleep(number("interval-ms", 0));
        }
        producer.shutdown();
        say("done", Map.of("acked", acked, "failed", failed));
        return acked < number("count", 0) ? 1 : 0;
    }

    /** Half messages, of which every fourth is committed, rolled back, or left to a check. */
    private int transact() throws Exception {
        TransactionMQProducer producer = new TransactionMQProducer(option("group"));
        producer.setNamesrvAddr(option("namesrv"));
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object number) {
                switch ((Integer) number % 4) {
                    case 0:
                        return LocalTransactionState.COMMIT_MESSAGE;
                    case 1:
                        return LocalTransactionState.ROLLBACK_MESSAGE;
                    default:
                        return LocalTransactionState.UNKNOW;
                }
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                String key = message.getKeys();
                say("checked", Map.of("key", key));
                return Integer.parseInt(key.substring(key.length() - 6)) % 2 == 0
                    ? LocalTransactionState.COMMIT_MESSAGE : LocalTransactionState.ROLLBACK_MESSAGE;
            }
        });
        producer.start();
        say("ready", Map.of());
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(number("deadline-s", 60));
        long prepared = 0;
        long failed = 0;
        for (int i = 0; prepared < number("count", 0) && System.nanoTime() < end; i++) {
            String key = String.format("%s-%06d", option("group"), i);
            byte[] body = ("body of " + key).getBytes(StandardCharsets.UTF_8);
            try {
                Message message = new Message(option("topic"), TAG, key, body);
                SendResult result = producer.sendMessageInTransaction(message, i);
                if (result.getSendStatus() != SendStatus.SEND_OK) {
                    throw new IllegalStateException("status " + result.getSendStatus());
                }
                say("prepared", Map.of("key", key, "number", i));
                prepared++;
            } catch (Exception error) {
                failed++;
                say("failed", Map.of("key", key, "error", String.valueOf(error)));
                Thread.sleep(PAUSE_AFTER_FAILURE_MS);
            }
            Thread.sleep(number("interval-ms", 0));
        }
        say("done", Map.of("prepared", prepared, "failed", failed));
        while (System.in.read() >= 0) { } // checks come until the driver has seen enough
        producer.shutdown();
        return prepared < number("count", 0) ? 1 : 0;
    }

    private int consume() throws Exception {
        Set<String> seen = ConcurrentHashMap.newKeySet();
        CountDownLatch finished = new CountDownLatch(1);
        long expected = number("count", 0);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(option("group"));
        consumer.setNamesrvAddr(option("namesrv"));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(option("topic"), options.containsKey("sql")
            ? MessageSelector.bySql(option("sql")) : MessageSelector.byTag(TAG));
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> receive(message, seen));
            if (seen.size() == expected) {
                finished.countDown();
            }
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        say("ready", Map.of());
        atEndOfInput(finished);
        boolean complete = finished.await(number("deadline-s", 60), TimeUnit.SECONDS);
        consumer.shutdown();
        say("done", Map.of("seen", seen.size()));
        return complete ? 0 : 1;
    }

    private int request() throws Exception {
        DefaultMQProducer producer = producer(option("group"));
        say("ready", Map.of());
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(number("deadline-s", 60));
        greet(producer, end);
        long replied = 0;
        for (int i = 0; replied < number("count", 0) && System.nanoTime() < end; i++) {
            String key = String.format("%s-%06d", option("group"), i);
            byte[] body = ("body of " + key).getBytes(StandardCharsets.UTF_8);
            try {
                Message message = new Message(option("topic"), TAG, key, body);
                Message reply = producer.request(message, REPLY_WITHIN_MS);
                String text = new String(reply.getBody(), StandardCharsets.UTF_8);
                if (!text.equals("reply to " + key)) {
                    say("error", Map.of("error", "the reply to " + key + " is " + text));
                }
                replied++;
                say("replied", Map.of("key", key));
            } catch (Exception error) {
                say("failed", Map.of("key", key, "error", String.valueOf(error)));
                Thread.sleep(PAUSE_AFTER_FAILURE_MS);
            }
            Thread.sleep(number("interval-ms", 0));
        }
        producer.shutdown();
        say("done", Map.of("replied", replied));
        return replied < number("count", 0) ? 1 : 0;
    }

    private void greet(DefaultMQProducer producer, long end) throws Exception {
        byte[] body = HELLO.getBytes(StandardCharsets.UTF_8);
        while (System.nanoTime() < end) {
            try {
                producer.request(new Message(option("topic"), TAG, HELLO, body), REPLY_WITHIN_MS);
                return;
            } catch (Exception error) {
                Thread.sleep(PAUSE_AFTER_FAILURE_MS);
            }
        }
    }

    private int reply() throws Exception {
        CountDownLatch finished = new CountDownLatch(1);
        DefaultMQProducer producer = producer(option("group") + "-out");
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(option("group"));
        consumer.setNamesrvAddr(option("namesrv"));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(option("topic"), TAG);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(message -> replyTo(message, producer));
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        consumer.start();
        say("ready", Map.of());
        atEndOfInput(finished);
        boolean complete = finished.await(number("deadline-s", 60), TimeUnit.SECONDS);
        consumer.shutdown();
        producer.shutdown();
        return complete ? 0 : 1;
    }

    private static void replyTo(MessageExt message, DefaultMQProducer producer) {
        String key = message.getKeys();
        say("received", Map.of(
            "key", key, "queue", message.getQueueId(), "offset", message.getQueueOffset()));
        if (MessageUtil.getReplyToClient(message) == null) {
            return; // not a request
        }
        try {
            byte[] body = ("reply to " + key).getBytes(StandardCharsets.UTF_8);
            producer.send(MessageUtil.createReplyMessage(message, body));
        } catch (Exception error) {
            if (!key.equals(HELLO)) {
                say("failed", Map.of("key", key, "error", String.valueOf(error)));
            }
        }
    }

    private DefaultMQProducer producer(String group) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(group);
        producer.setNamesrvAddr(option("namesrv"));
        producer.start();
        return producer;
    }

    /** The end of standard input is the driver's word that all has been seen. */
    private static void atEndOfInput(CountDownLatch finished) {
        Thread waiter = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (java.io.IOException error) {
                say("error", Map.of("error", String.valueOf(error)));
            }
            finished.countDown();
        });
        waiter.setDaemon(true);
        waiter.start();
    }

    private static void receive(MessageExt message, Set<String> seen) {
        String key = message.getKeys();
        String body = new String(message.getBody(), StandardCharsets.UTF_8);
        if (!body.equals("body of " + key)) {
            say("error", Map.of("error", key + " has the body " + body));
        }
        say("received", Map.of(
            "key", key, "queue", message.getQueueId(), "offset", message.getQueueOffset(),
            "half", message.getPreparedTransactionOffset()));
        seen.add(key);
    }

    /** Whoever drives this program goes on. */
    void awaitLine() {
        try {
            int read = System.in.read();
            while (read >= 0 && read != '\n') {
                read = System.in.read();
            }
        } catch (java.io.IOException error) {
            throw new java.io.UncheckedIOException(error);
        }
    }

    String option(String name) {
        String value = options.get(name);
        if (value == null) {
            throw new IllegalArgumentException("--" + name + " is missing");
        }
        return value;
    }

    long number(String name, long otherwise) {
        return Long.parseLong(options.getOrDefault(name, String.valueOf(otherwise)));
    }

    static synchronized void say(String event, Map<String, ?> facts) {
        StringBuilder line = new StringBuilder("{\"event\": \"" + event + "\"");
        facts.forEach((name, value) -> line.append(", \"").append(name).append("\": ")
            .append(value instanceof Number ? value : quoted(String.valueOf(value))));
        System.out.println(line.append('}'));
    }

    private static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < 0x20) {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }
}
