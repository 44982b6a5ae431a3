package interop;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.PullStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * What Apache's Java client can do besides sending and consuming: one check each, that says `halfway`
 * where a leader may be killed, and ends well or throws what was wrong.
 */
final class Features {
    /** How early the clocks of two processes let a message be. */
    private static final long EARLY_MS = 20;
    /** In time, where no leader is killed and the machine is busy. */
    private static final long LATE_MS = 1_500;
    /** On a busy machine a cold JVM takes most of the usual three seconds to find its route. */
    private static final int SEND_TIMEOUT_MS = 10_000;

    private final Interop program;
    final String topic;
    final boolean failover;
    private final long limitMs;
    private final List<AutoCloseable> open = new ArrayList<>();

    Features(Interop program) {
        this.program = program;
        this.topic = program.option("topic");
        this.failover = Boolean.parseBoolean(program.option("failover"));
        this.limitMs = TimeUnit.SECONDS.toMillis(program.number("deadline-s", 60));
    }

    void run(String check) throws Exception {
        try {
            switch (check) {
                case "sends": sends(); break;
                case "delay": delay(); break;
                case "recall": recall(); break;
                case "retry": retry(); break;
                case "orderly": orderly(); break;
                case "broadcast": broadcast(); break;
                case "tags": tags(); break;
                case "pull": pull(); break;
                case "lite-pull": litePull(); break;
                case "topics": topics(); break;
                case "reset": reset(); break;
                case "queries": queries(); break;
                case "retry-policy": retryPolicy(); break;
                case "namespace": namespace(); break;
                case "trace": trace(); break;
                case "pop": new Popping(this).run(); break;
                case "pop-calls": new PopCalls(this).run(); break;
                default: throw new IllegalArgumentException("no check " + check);
            }
        } finally {
            for (AutoCloseable each : open) {
                each.close();
            }
        }
    }

    /** Synchronous, asynchronous, one way, in batches: all of it arrives. */
    private void sends() throws Exception {
        DefaultMQProducer producer = producer();
        Set<String> sent = ConcurrentHashMap.newKeySet();
        sent.add(send(producer, message("sync")));
        halfway();
        CountDownLatch answered = new CountDownLatch(10);
        for (int i = 0; i < 10; i++) {
            String key = "async-" + i;
            producer.send(message(key), new SendCallback() {
                @Override public void onSuccess(SendResult result) {
                    sent.add(key);
                    answered.countDown();
                }

                @Override public void onException(Throwable error) {
                    answered.countDown();
                }
            });
        }
        answered.await(limitMs, TimeUnit.MILLISECONDS);
        demand(failover || sent.size() == 11, "answered: " + sent);
        List<Message> batch = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            batch.add(message("batch-" + i));
        }
        retrying(() -> producer.send(batch));
        batch.forEach(each -> sent.add(each.getKeys()));
        if (!failover) {
            producer.sendOneway(message("one-way"));
            sent.add("one-way");
        }
        Seen seen = new Seen();
        consumer("sends", "*", seen::take);
        await(() -> seen.keys().containsAll(sent), () -> "seen " + seen.keys() + " of " + sent);
    }

    /** By level, after a span, at a time: each once, not before its time, and soon after it. */
    private void delay() throws Exception {
        Seen seen = new Seen();
        consumer("delay", "*", seen::take);
        DefaultMQProducer producer = producer();
        Map<String, Long> due = new TreeMap<>();
        for (int i = 0; i < 30; i++) {
            Message message = message("delay-" + i);
            long ms = failover ? 4_000 + 100L * i : 500 + 100L * i;
            long now = System.currentTimeMillis();
            if (i % 3 == 0) {
                int level = failover ? 2 : 1;
                message.setDelayTimeLevel(level);
                ms = level == 1 ? 1_000 : 5_000;
            } else if (i % 3 == 1) {
                Versions.setDelayTimeMs(message, ms);
            } else {
                Versions.setDeliverTimeMs(message, now + ms);
            }
            due.put(message.getKeys(), now + ms);
            send(producer, message);
        }
        halfway();
        await(() -> seen.keys().containsAll(due.keySet()), () -> "seen " + seen.keys());
        due.forEach((key, at) -> {
            demand(seen.places.get(key).size() == 1, key + " at " + seen.places.get(key));
            long late = seen.stored.get(key) - at;
            demand(late >= -EARLY_MS, key + " was " + -late + " ms too early");
            demand(failover || late <= LATE_MS, key + " was " + late + " ms too late");
        });
    }

    /** What is recalled does not arrive, and what is not recalled does. */
    private void recall() throws Exception {
        Seen seen = new Seen();
        consumer("recall", "*", seen::take);
        DefaultMQProducer producer = producer();
        List<String> handles = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            Message message = message("recall-" + i);
            message.setDelayTimeMs(failover ? 40_000 : 4_000);
            SendResult result = producer.send(message);
            handles.add(result.getRecallHandle());
        }
        halfway();
        for (int i = 0; i < 10; i += 2) {
            String handle = handles.get(i);
            retrying(() -> producer.recallMessage(topic, handle));
        }
        Set<String> kept = Set.of("recall-1", "recall-3", "recall-5", "recall-7", "recall-9");
        await(() -> seen.keys().containsAll(kept), () -> "seen " + seen.keys());
        // All were for the same time, give or take the time of sending: the recalled first.
        demand(seen.keys().equals(kept), "recalled and seen: " + seen.keys());
    }

    /** A message that fails comes again, and is a dead letter in the end. */
    private void retry() throws Exception {
        Map<String, Integer> times = new ConcurrentHashMap<>();
        DefaultMQPushConsumer consumer = newConsumer("retry");
        consumer.setMaxReconsumeTimes(2);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt message = messages.get(0);
            times.merge(message.getKeys(), message.getReconsumeTimes(), Math::max);
            context.setDelayLevelWhenNextConsume(1);
            boolean good = message.getKeys().equals("good")
                || message.getKeys().equals("second") && message.getReconsumeTimes() > 0;
            return good
                ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS
                : ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        start(consumer);
        DefaultMQProducer producer = producer();
        for (String key : List.of("good", "second", "bad")) {
            send(producer, message(key));
        }
        await(() -> times.containsKey("bad"), () -> "seen " + times);
        halfway();
        await(() -> times.getOrDefault("bad", 0) == 2 && times.getOrDefault("second", 0) >= 1,
            () -> "came again: " + times);
        Seen dead = new Seen();
        DefaultMQPushConsumer undertaker = newConsumer("retry-dead");
        undertaker.subscribe("%DLQ%" + group("retry"), "*");
        undertaker.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(dead::take);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        start(undertaker);
        await(() -> dead.keys().contains("bad"), () -> "dead letters: " + dead.keys());
        demand(dead.keys().equals(Set.of("bad")), "dead letters: " + dead.keys());
        demand(times.get("good") == 0, "a good message came again");
    }

    /** Two consumers of a group, each message of a key after the one before it. */
    private void orderly() throws Exception {
        int keys = 8;
        int each = 40;
        Map<String, Integer> last = new HashMap<>();
        List<String> wrong = new ArrayList<>();
        MessageListenerOrderly listener = (messages, context) -> {
            synchronized (last) {
                for (MessageExt message : messages) {
                    String[] parts = message.getKeys().split("-");
                    int number = Integer.parseInt(parts[1]);
                    int before = last.getOrDefault(parts[0], -1);
                    if (number > before + 1) {
                        wrong.add(message.getKeys() + " after " + before);
                    }
                    last.put(parts[0], Math.max(before, number));
                }
            }
            return ConsumeOrderlyStatus.SUCCESS;
        };
        for (String instance : List.of("one", "two")) {
            DefaultMQPushConsumer consumer = newConsumer("orderly");
            consumer.setInstanceName(instance);
            consumer.subscribe(topic, "*");
            consumer.registerMessageListener(listener);
            start(consumer);
        }
        DefaultMQProducer producer = producer();
        for (int number = 0; number < each; number++) {
            if (number == each / 2) {
                halfway();
            }
            for (int key = 0; key < keys; key++) {
                Message message = message("k" + key + "-" + number);
                int queue = key;
                // Tried again until it is acknowledged, or the next would come before it.
                retrying(() -> producer.send(message,
                    (queues, sent, argument) -> queues.get(queue % queues.size()), null));
            }
        }
        await(() -> {
            synchronized (last) {
                return last.size() == keys && last.values().stream().allMatch(n -> n == each - 1);
            }
        }, () -> "came as far as " + last);
        synchronized (last) {
            demand(wrong.isEmpty(), "out of order: " + wrong);
        }
    }

    /** Every consumer of the group gets every message. */
    private void broadcast() throws Exception {
        List<Seen> all = List.of(new Seen(), new Seen());
        for (int i = 0; i < all.size(); i++) {
            DefaultMQPushConsumer consumer = newConsumer("broadcast");
            consumer.setInstanceName("instance-" + i);
            Versions.setBroadcasting(consumer);
            consumer.subscribe(topic, "*");
            Seen seen = all.get(i);
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                messages.forEach(seen::take);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            start(consumer);
        }
        DefaultMQProducer producer = producer();
        Set<String> sent = new HashSet<>();
        for (int i = 0; i < 20; i++) {
            if (i == 10) {
                halfway();
            }
            sent.add(send(producer, message("broadcast-" + i)));
        }
        for (Seen seen : all) {
            await(() -> seen.keys().containsAll(sent), () -> "seen " + seen.keys());
        }
    }

    /** Of several tags, those that were asked for. */
    private void tags() throws Exception {
        Seen seen = new Seen();
        consumer("tags", "red || blue", seen::take);
        DefaultMQProducer producer = producer();
        List<String> tags = List.of("red", "green", "blue", "green", "red");
        Set<String> wanted = new HashSet<>();
        for (int i = 0; i < tags.size(); i++) {
            if (i == 2) {
                halfway();
            }
            Message message = message(tags.get(i) + "-" + i);
            message.setTags(tags.get(i));
            send(producer, message);
            if (!tags.get(i).equals("green")) {
                wanted.add(message.getKeys());
            }
        }
        await(() -> seen.keys().containsAll(wanted), () -> "seen " + seen.keys());
        demand(seen.keys().equals(wanted), "seen " + seen.keys());
    }

    /** The oldest consumer: it names queue and offset, and tells the broker where its group is. */
    @SuppressWarnings("deprecation")
    private void pull() throws Exception {
        DefaultMQProducer producer = producer();
        Set<String> sent = new HashSet<>();
        for (int i = 0; i < 20; i++) {
            sent.add(send(producer, message("pull-" + i)));
        }
        DefaultMQPullConsumer consumer = new DefaultMQPullConsumer(group("pull"));
        consumer.setNamesrvAddr(program.option("namesrv"));
        consumer.setPollNameServerInterval(1_000);
        consumer.start();
        open.add(consumer::shutdown);
        Map<MessageQueue, Long> next = new HashMap<>();
        for (MessageQueue queue : consumer.fetchSubscribeMessageQueues(topic)) {
            next.put(queue, 0L);
        }
        halfway();
        Seen seen = new Seen();
        for (MessageQueue queue : next.keySet()) {
            retrying(() -> {
                PullResult result = consumer.pull(queue, "*", next.get(queue), 3);
                while (result.getPullStatus() == PullStatus.FOUND) {
                    result.getMsgFoundList().forEach(seen::take);
                    next.put(queue, result.getNextBeginOffset());
                    result = consumer.pull(queue, "*", next.get(queue), 3);
                }
            });
            consumer.updateConsumeOffset(queue, next.get(queue));
        }
        demand(seen.keys().equals(sent), "seen " + seen.keys());
        consumer.getDefaultMQPullConsumerImpl().getOffsetStore().persistAll(next.keySet());
        for (MessageQueue queue : next.keySet()) {
            await(() -> committed(consumer, queue) == next.get(queue),
                () -> queue + " is at " + committed(consumer, queue) + ", not " + next.get(queue));
        }
    }

    /** What the broker has; it takes the commits one way. */
    @SuppressWarnings("deprecation")
    private static long committed(DefaultMQPullConsumer consumer, MessageQueue queue) {
        try {
            return consumer.fetchConsumeOffset(queue, true);
        } catch (Exception error) {
            return -2;
        }
    }

    /**
     * Records of what was sent and consumed. Whether they came is for the driver to find out, of
     * whatever is `traced`. Those that are sent while a leader dies may be lost: the client tries once.
     */
    private void trace() throws Exception {
        Seen seen = new Seen();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group("trace"), true, null);
        consumer.setNamesrvAddr(program.option("namesrv"));
        consumer.setPollNameServerInterval(1_000);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(seen::take);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        start(consumer);
        DefaultMQProducer producer = new DefaultMQProducer(group("producer"), true, null);
        producer.setNamesrvAddr(program.option("namesrv"));
        producer.setPollNameServerInterval(1_000);
        producer.setSendMsgTimeout(SEND_TIMEOUT_MS);
        producer.start();
        open.add(producer::shutdown);
        Set<String> sent = new HashSet<>();
        for (int i = 0; i < 10; i++) {
            sent.add(sendTraced(producer, "before-" + i));
        }
        await(() -> seen.keys().containsAll(sent), () -> "seen " + seen.keys());
        if (failover) {
            Thread.sleep(2_000); // the client's own thread sends the records soon
        }
        halfway();
        for (int i = 0; i < (failover ? 90 : 10); i++) {
            sent.add(sendTraced(producer, "after-" + i));
            Thread.sleep(failover ? 500 : 0); // until this client's tracer has asked for the leader
        }
        await(() -> seen.keys().containsAll(sent), () -> "seen " + seen.keys());
    }

    private String sendTraced(DefaultMQProducer producer, String key) throws Exception {
        retrying(() -> {
            SendResult result = producer.send(message(key));
            Interop.say("traced", Map.of("key", key, "id", result.getMsgId()));
        });
        return key;
    }

    /** Topics are made and deleted. */
    private void topics() throws Exception {
        DefaultMQProducer producer = producer();
        MQClientInstance client = producer.getDefaultMQProducerImpl().getMqClientFactory();
        String name = topic + "-made";
        halfway();
        retrying(() -> Versions.createTopic(producer, topic, name, 3));
        Message message = new Message(name, "x".getBytes(StandardCharsets.UTF_8));
        send(producer, message);
        List<MessageQueue> queues = producer.fetchPublishMessageQueues(name);
        demand(queues.size() == 3, "queues: " + queues);
        String namesrv = program.option("namesrv");
        retrying(() -> client.getMQClientAPIImpl().deleteTopicInBroker(
            client.findBrokerAddressInPublish(queues.get(0).getBrokerName()), name, 5_000));
        retrying(() -> Versions.deleteTopicInNameServer(client, namesrv, name));
        DefaultMQProducer other = new DefaultMQProducer(group("other"));
        other.setNamesrvAddr(namesrv);
        other.setInstanceName("other");
        other.start();
        open.add(other::shutdown);
        try {
            demand(false, "deleted and routed: " + other.fetchPublishMessageQueues(name));
        } catch (MQClientException gone) {
            demand(gone.getMessage().contains("Can not find Message Queue"), gone.toString());
        }
    }

    /** A consumer that asks, and goes on where its group was. */
    private void litePull() throws Exception {
        DefaultMQProducer producer = producer();
        Set<String> sent = new HashSet<>();
        for (int i = 0; i < 20; i++) {
            sent.add(send(producer, message("pull-" + i)));
        }
        Seen seen = new Seen();
        DefaultLitePullConsumer consumer = new DefaultLitePullConsumer(group("pull"));
        consumer.setNamesrvAddr(program.option("namesrv"));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.start();
        open.add(consumer::shutdown);
        halfway();
        await(() -> {
            consumer.poll(500).forEach(seen::take);
            return seen.keys().containsAll(sent);
        }, () -> "seen " + seen.keys());
    }

    /** A group goes where an operator puts it, whether it is online then or comes later. */
    private void reset() throws Exception {
        DefaultMQProducer producer = producer();
        Set<String> sent = new HashSet<>();
        for (int i = 0; i < 20; i++) {
            sent.add(send(producer, message("reset-" + i)));
        }
        Map<String, Integer> times = new ConcurrentHashMap<>();
        Handler count = message -> times.merge(message.getKeys(), 1, Integer::sum);
        consumer("reset", "*", count);
        await(() -> allCame(times, sent, 1), () -> "seen " + times);
        reset(producer, 0);
        await(() -> allCame(times, sent, 2), () -> "online, after the reset " + times);

        closeLast(); // it commits how far it has come
        reset(producer, 0);
        halfway();
        consumer("reset", "*", count);
        await(() -> allCame(times, sent, 3), () -> "offline, after the reset " + times);
        demand(failover || times.values().stream().allMatch(n -> n == 3), "too often: " + times);

        closeLast();
        times.clear();
        send(producer, message("skipped"));
        retrying(() -> reset(producer, -1));
        send(producer, message("fresh"));
        consumer("reset", "*", count);
        await(() -> times.containsKey("fresh"), () -> "after the reset to the end " + times);
        demand(times.keySet().equals(Set.of("fresh")), "after the reset to the end " + times);
    }

    private static boolean allCame(Map<String, Integer> times, Set<String> keys, int often) {
        return keys.stream().allMatch(key -> times.getOrDefault(key, 0) >= often);
    }

    private void closeLast() throws Exception {
        open.remove(open.size() - 1).close();
    }

    /** As mqadmin's resetOffsetByTime asks for it; a negative time is the end. */
    private void reset(DefaultMQProducer producer, long timestamp) throws Exception {
        MQClientInstance client = producer.getDefaultMQProducerImpl().getMqClientFactory();
        for (MessageQueue queue : producer.fetchPublishMessageQueues(topic)) {
            if (queue.getQueueId() == 0) {
                client.getMQClientAPIImpl().invokeBrokerToResetOffset(
                    client.findBrokerAddressInPublish(queue.getBrokerName()),
                    topic, group("reset"), timestamp, true, 5_000);
            }
        }
    }

    /** By key and by unique id, at once: every message that was acknowledged, and nothing else. */
    private void queries() throws Exception {
        DefaultMQProducer producer = producer();
        long begin = System.currentTimeMillis() - TimeUnit.MINUTES.toMillis(1);
        for (int i = 0; i < 40; i++) {
            if (i == 20) {
                halfway();
            }
            Message message = message("query-" + i);
            message.setKeys("query-" + i + " all");
            SendResult[] sent = new SendResult[1];
            retrying(() -> sent[0] = producer.send(message));
            String id = sent[0].getMsgId();
            retrying(() -> {
                MessageExt byId =
                    producer.getDefaultMQProducerImpl().queryMessageByUniqKey(topic, id);
                demand(byId != null && byId.getKeys().equals(message.getKeys()), id + ": " + byId);
                List<MessageExt> byKey = producer.queryMessage(
                    topic, message.getKeys().split(" ")[0], 64, begin, Long.MAX_VALUE).getMessageList();
                demand(byKey.stream().anyMatch(each -> each.getMsgId().equals(id)), byKey.toString());
                demand(failover || byKey.size() == 1, byKey.toString());
            });
        }
        List<MessageExt> all =
            producer.queryMessage(topic, "all", 64, begin, Long.MAX_VALUE).getMessageList();
        Set<String> keys = new HashSet<>();
        all.forEach(each -> keys.add(each.getKeys()));
        demand(keys.size() == 40, "by the key of all: " + keys);
    }

    /** The group's policy, a second each time, says when a message comes again; by levels it is 10 s. */
    private void retryPolicy() throws Exception {
        Map<Integer, Long> stored = new ConcurrentHashMap<>();
        DefaultMQPushConsumer consumer = newConsumer("retry-policy");
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt message = messages.get(0);
            stored.put(message.getReconsumeTimes(), System.currentTimeMillis());
            return message.getReconsumeTimes() < 2
                ? ConsumeConcurrentlyStatus.RECONSUME_LATER
                : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        start(consumer);
        send(producer(), message("again"));
        await(() -> stored.containsKey(0), () -> "not seen");
        halfway();
        await(() -> stored.containsKey(2), () -> "seen " + stored);
        for (int times = 1; times <= 2; times++) {
            long waited = stored.get(times) - stored.get(times - 1);
            demand(waited >= 1_000 - EARLY_MS, "retry " + times + " after " + waited + " ms");
            // A new group looks for its retry topic's queues every 20 s only.
            demand(failover || times == 1 || waited < 5_000, times + " after " + waited + " ms");
        }
    }

    /** What is sent in a namespace is consumed there, tried again there, and a dead letter there. */
    private void namespace() throws Exception {
        String namespace = "MQ_INST_1";
        Seen outside = new Seen();
        consumer("namespace", "*", outside::take);
        Map<String, Integer> times = new ConcurrentHashMap<>();
        DefaultMQPushConsumer consumer = newConsumer("namespace");
        consumer.setInstanceName("inside");
        consumer.setNamespace(namespace);
        consumer.setMaxReconsumeTimes(1);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            MessageExt message = messages.get(0);
            context.setDelayLevelWhenNextConsume(1);
            if (!message.getTopic().equals(topic)) {
                return ConsumeConcurrentlyStatus.RECONSUME_LATER;
            }
            times.merge(message.getKeys(), message.getReconsumeTimes(), Math::max);
            return message.getKeys().equals("good")
                ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS
                : ConsumeConcurrentlyStatus.RECONSUME_LATER;
        });
        start(consumer);
        DefaultMQProducer producer = new DefaultMQProducer(group("namespace-producer"));
        producer.setNamesrvAddr(program.option("namesrv"));
        producer.setNamespace(namespace);
        producer.setInstanceName("inside-producer");
        producer.start();
        open.add(producer::shutdown);
        send(producer, message("good"));
        send(producer, message("bad"));
        halfway();
        await(() -> times.containsKey("good") && times.getOrDefault("bad", 0) == 1,
            () -> "seen " + times);
        Seen dead = new Seen();
        DefaultMQPushConsumer undertaker = newConsumer("namespace-dead");
        undertaker.subscribe("%DLQ%" + namespace + "%" + group("namespace"), "*");
        undertaker.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(dead::take);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        start(undertaker);
        await(() -> dead.keys().contains("bad"), () -> "dead letters: " + dead.keys());
        demand(outside.keys().isEmpty(), "seen outside of the namespace: " + outside.keys());
    }

    // --- pieces ---

    private static final class Seen {
        final Map<String, Set<String>> places = new ConcurrentHashMap<>();
        final Map<String, Long> stored = new ConcurrentHashMap<>();

        void take(MessageExt message) {
            String place = message.getBrokerName() + "/" + message.getQueueId() + "/"
                + message.getQueueOffset();
            stored.put(message.getKeys(), message.getStoreTimestamp());
            places.computeIfAbsent(message.getKeys(), key -> ConcurrentHashMap.newKeySet()).add(place);
        }

        Set<String> keys() {
            return Set.copyOf(places.keySet());
        }
    }

    private interface Handler {
        void take(MessageExt message);
    }

    interface Action {
        void run() throws Exception;
    }

    interface Text {
        String get();
    }

    void halfway() {
        Interop.say("halfway", Map.of());
        if (failover) {
            program.awaitLine(); // the leader is dead
        }
    }

    String group(String check) {
        return topic + "-" + check;
    }

    Message message(String key) {
        return new Message(topic, "tag", key, ("body of " + key).getBytes(StandardCharsets.UTF_8));
    }

    DefaultMQProducer producer() throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(group("producer"));
        producer.setNamesrvAddr(program.option("namesrv"));
        producer.setPollNameServerInterval(1_000);
        producer.setSendMsgTimeout(SEND_TIMEOUT_MS);
        producer.start();
        open.add(producer::shutdown);
        return producer;
    }

    String send(DefaultMQProducer producer, Message message) throws Exception {
        retrying(() -> {
            SendResult result = producer.send(message);
            demand(result.getSendStatus() == SendStatus.SEND_OK, "status " + result.getSendStatus());
        });
        return message.getKeys();
    }

    private DefaultMQPushConsumer newConsumer(String check) {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group(check));
        prepare(consumer);
        return consumer;
    }

    void prepare(DefaultMQPushConsumer consumer) {
        consumer.setNamesrvAddr(program.option("namesrv"));
        consumer.setPollNameServerInterval(1_000);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
    }

    private void consumer(String check, String expression, Handler handler) throws Exception {
        DefaultMQPushConsumer consumer = newConsumer(check);
        consumer.subscribe(topic, expression);
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            messages.forEach(handler::take);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        start(consumer);
    }

    /** When the check is over. */
    void closing(AutoCloseable each) {
        open.add(each);
    }

    void start(DefaultMQPushConsumer consumer) throws Exception {
        consumer.start();
        open.add(consumer::shutdown);
    }

    /** As an application would: once, or again and again while a leader is missed. */
    void retrying(Action action) throws Exception {
        long end = System.currentTimeMillis() + limitMs;
        while (true) {
            try {
                action.run();
                return;
            } catch (Exception error) {
                if (!failover || System.currentTimeMillis() > end) {
                    throw error;
                }
                Thread.sleep(200);
            }
        }
    }

    void await(BooleanSupplier condition, Text otherwise) throws Exception {
        long end = System.currentTimeMillis() + limitMs;
        while (!condition.getAsBoolean()) {
            demand(System.currentTimeMillis() < end, otherwise.get());
            Thread.sleep(20);
        }
    }

    static void demand(boolean good, String otherwise) {
        if (!good) {
            throw new IllegalStateException(otherwise);
        }
    }
}
