package interop;

import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.ClientConfig;
import org.apache.rocketmq.client.consumer.AckResult;
import org.apache.rocketmq.client.consumer.AckStatus;
import org.apache.rocketmq.client.consumer.PopResult;
import org.apache.rocketmq.client.consumer.PopStatus;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.impl.mqclient.DoNothingClientRemotingProcessor;
import org.apache.rocketmq.client.impl.mqclient.MQClientAPIExt;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.constant.ConsumeInitMode;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;
import org.apache.rocketmq.remoting.CommandCustomHeader;
import org.apache.rocketmq.remoting.netty.NettyClientConfig;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RequestCode;
import org.apache.rocketmq.remoting.protocol.ResponseCode;
import org.apache.rocketmq.remoting.protocol.admin.OffsetWrapper;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ChangeInvisibleTimeRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.header.NotificationRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PeekMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PollingInfoRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PollingInfoResponseHeader;
import org.apache.rocketmq.remoting.protocol.header.PopMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.PopMessageResponseHeader;

/**
 * What Java's push consumer does not ask of a broker that pops, but a proxy does, by the calls that
 * it has in the client (`MQClientAPIExt`): pops in order, batches of acknowledgements, another time
 * for a message, whether there is something to pop. To peek and to ask who waits there are headers
 * and no calls.
 *
 * <p>Each part has a group and a queue of its own. The leader is killed while messages are in flight.
 */
final class PopCalls {
    /** How long a message is its consumer's: longer than there is no leader. */
    private static final long INVISIBLE_MS = 60_000;
    /** Of a message that is to come again. */
    private static final long SOON_MS = 1_000;
    /** Within which there is something to be had. */
    private static final long PATIENT_MS = 20_000;
    /** Within which there is nothing to be had. */
    private static final long BRIEF_MS = 300;
    private static final long CALL_MS = 5_000;
    private static final int ANY = -1;
    private static final int ASKED = 0;
    private static final int BATCH = 1;
    private static final int ORDERED = 2;
    private static final int BATCHED = 20;

    private final Features features;
    private final String topic;
    private DefaultMQProducer producer;
    private MQClientInstance client;
    private MQClientAPIExt calls;
    private String broker;

    PopCalls(Features features) {
        this.features = features;
        this.topic = features.topic;
    }

    void run() throws Exception {
        producer = features.producer();
        client = producer.getDefaultMQProducerImpl().getMqClientFactory();
        broker = producer.fetchPublishMessageQueues(topic).get(0).getBrokerName();
        calls = new MQClientAPIExt(new ClientConfig(), new NettyClientConfig(),
            new DoNothingClientRemotingProcessor(null), null);
        calls.start();
        features.closing(calls::shutdown);
        Asked asked = new Asked();
        Batch batch = new Batch();
        Ordered ordered = new Ordered();
        asked.begin();
        batch.begin();
        ordered.begin();
        features.halfway();
        send("again", ASKED); // answered: there is a leader, and the client knows it
        asked.end();
        batch.end();
        ordered.end();
    }

    /** Whether there is something, and what: nothing is taken by the questions. */
    private final class Asked {
        final String group = features.group("asked");

        void begin() throws Exception {
            demandNoNews("before a message is sent");
            CompletableFuture<Boolean> news = notification(group, ASKED, PATIENT_MS, false);
            features.await(() -> waiting(group, ASKED) == 1, () -> "a notification is not held");
            send("asked-0", ASKED);
            Features.demand(result(news), "not told of a message");
            send("asked-1", ASKED);
            demandPeeked(2, List.of("asked-0", "asked-1"), 0);
            demandPeeked(1, List.of("asked-0"), 1);
            take("asked-0");
            demandPeeked(2, List.of("asked-1"), 0);
            demandNews("of a second message");
            take("asked-1");
            demandPeeked(2, List.of(), 0);
            demandNoNews("while all is in flight");
        }

        void end() throws Exception {
            demandPeeked(2, List.of("again"), 0);
            demandNews("of what came later");
        }

        private void take(String key) throws Exception {
            List<MessageExt> popped = found(pop(group, ASKED, 1, PATIENT_MS, null));
            Features.demand(keys(popped).equals(List.of(key)), key + ": popped " + keys(popped));
        }

        private void demandPeeked(int most, List<String> expected, long left) throws Exception {
            PeekMessageRequestHeader header = new PeekMessageRequestHeader();
            header.setConsumerGroup(group);
            header.setTopic(topic);
            header.setQueueId(ASKED);
            header.setMaxMsgNums(most);
            RemotingCommand answer = invoke(RequestCode.PEEK_MESSAGE, header);
            int code = expected.isEmpty() ? ResponseCode.PULL_NOT_FOUND : ResponseCode.SUCCESS;
            Features.demand(answer.getCode() == code, "peek: code " + answer.getCode());
            PopMessageResponseHeader told = (PopMessageResponseHeader)
                answer.decodeCommandCustomHeader(PopMessageResponseHeader.class);
            List<String> seen = answer.getBody() == null ? List.of()
                : keys(MessageDecoder.decodes(ByteBuffer.wrap(answer.getBody())));
            Features.demand(seen.equals(expected), "peeked " + seen + " instead of " + expected);
            Features.demand(told.getRestNum() == left, "left behind: " + told.getRestNum());
        }

        private void demandNews(String of) throws Exception {
            long end = System.currentTimeMillis() + PATIENT_MS;
            boolean told = notified(group, ASKED, PATIENT_MS, false);
            Features.demand(told && System.currentTimeMillis() < end, "not told at once " + of);
        }

        private void demandNoNews(String when) throws Exception {
            Features.demand(!notified(group, ASKED, BRIEF_MS, false), "told of a message " + when);
        }
    }

    /** Many are acknowledged at once, a void handle is of no use, and what is given back comes again. */
    private final class Batch {
        final String group = features.group("batch");
        final Map<String, MessageExt> first = new TreeMap<>();

        void begin() throws Exception {
            for (int i = 0; i < BATCHED; i++) {
                send("batch-" + i, BATCH);
            }
            while (first.size() < BATCHED) {
                found(pop(group, BATCH, 32, PATIENT_MS, null))
                    .forEach(each -> first.put(each.getKeys(), each));
            }
        }

        void end() throws Exception {
            ackAll(group, first.values().stream().filter(each -> !isOdd(each))
                .map(PopCalls::handle).collect(Collectors.toList()));
            for (MessageExt each : first.values()) {
                if (isOdd(each)) {
                    giveBack(each);
                }
            }
            Map<String, MessageExt> again = new TreeMap<>();
            while (again.size() < BATCHED / 2) {
                for (MessageExt each : found(pop(group, BATCH, 32, PATIENT_MS, null))) {
                    Features.demand(isOdd(each), each.getKeys() + " was acknowledged");
                    Features.demand(each.getReconsumeTimes() == 1, each + ": how often it came");
                    Features.demand(each.getTopic().equals(topic), each.getTopic());
                    boolean once = again.put(each.getKeys(), each) == null;
                    Features.demand(once, each.getKeys() + " came again at once");
                }
            }
            List<String> handles = new ArrayList<>();
            again.values().forEach(each -> handles.add(handle(each)));
            first.values().forEach(each -> handles.add(handle(each))); // void by now
            ackAll(group, handles);
            demandNothing(pop(group, BATCH, 32, BRIEF_MS, null), "all is acknowledged");
            awaitThrough(group, BATCH);
        }

        private boolean isOdd(MessageExt message) {
            return Integer.parseInt(message.getKeys().split("-")[1]) % 2 == 1;
        }

        private void giveBack(MessageExt message) throws Exception {
            AckResult longer = changed(group, message, handle(message), INVISIBLE_MS);
            demandOk(longer);
            // What became of the message the first handle does not tell, and it changes nothing.
            demandOk(acked(group, message, handle(message)));
            AckStatus late = changed(group, message, handle(message), INVISIBLE_MS).getStatus();
            Features.demand(late == AckStatus.NO_EXIST, "changed by a void handle: " + late);
            demandOk(changed(group, message, longer.getExtraInfo(), SOON_MS));
        }
    }

    /** A queue rests while anything of it is in flight; what is not acknowledged comes first again. */
    private final class Ordered {
        final String group = features.group("ordered");
        MessageExt held;

        void begin() throws Exception {
            for (int i = 0; i < 6; i++) {
                send("ordered-" + i, ORDERED);
            }
            String attempt = UUID.randomUUID().toString();
            MessageExt unheard = one(pop(group, ORDERED, 1, PATIENT_MS, attempt), 0, 0);
            demandBlocked();
            held = one(pop(group, ORDERED, 1, PATIENT_MS, attempt), 0, 0);
            demandOk(acked(group, unheard, handle(unheard))); // void, and of no effect
            demandBlocked();
            demandOthersGoOn();
            CompletableFuture<PopResult> next = popInOrder(1, PATIENT_MS);
            features.await(() -> waiting(group, ORDERED) == 1, () -> "a pop in order is not held");
            Features.demand(!next.isDone(), "popped from a queue that is blocked");
            demandOk(acked(group, held, handle(held)));
            held = one(next, 1, 0);
            demandBlocked();
        }

        void end() throws Exception {
            demandBlocked();
            AckResult sooner = changed(group, held, handle(held), SOON_MS);
            demandOk(sooner);
            held = one(popInOrder(1, PATIENT_MS), 1, 1);
            demandBlocked();
            demandOk(changed(group, held, handle(held), SOON_MS));
            held = one(popInOrder(1, PATIENT_MS), 1, 2);
            ackAll(group, List.of(handle(held)));
            List<MessageExt> three = found(popInOrder(3, PATIENT_MS));
            List<String> expected = List.of("ordered-2", "ordered-3", "ordered-4");
            Features.demand(keys(three).equals(expected), "popped in order: " + keys(three));
            ackAll(group, List.of(handle(three.get(0)), handle(three.get(2))));
            demandBlocked();
            demandOk(changed(group, three.get(1), handle(three.get(1)), SOON_MS));
            held = one(popInOrder(1, PATIENT_MS), 3, 1);
            demandOk(acked(group, held, handle(held)));
            held = one(popInOrder(1, PATIENT_MS), 5, 0);
            demandOk(acked(group, held, handle(held)));
            demandNothing(popInOrder(1, BRIEF_MS), "all is acknowledged");
            Features.demand(!notified(group, ORDERED, BRIEF_MS, true), "told of a message in order");
            awaitThrough(group, ORDERED);
        }

        private CompletableFuture<PopResult> popInOrder(int most, long waitMs) throws Exception {
            return pop(group, ORDERED, most, waitMs, UUID.randomUUID().toString());
        }

        private void demandBlocked() throws Exception {
            demandNothing(popInOrder(1, BRIEF_MS), "a message is in flight");
            Features.demand(!notified(group, ORDERED, BRIEF_MS, true), "told of a queue that is blocked");
        }

        /** A pop of whatever queue gets something of the others. */
        private void demandOthersGoOn() throws Exception {
            List<MessageExt> others =
                found(pop(group, ANY, 32, PATIENT_MS, UUID.randomUUID().toString()));
            for (MessageExt each : others) {
                Features.demand(each.getQueueId() != ORDERED, each.getKeys() + " out of order");
            }
            ackAll(group, others.stream().map(PopCalls::handle).collect(Collectors.toList()));
        }

        private MessageExt one(CompletableFuture<PopResult> pop, int number, int returns)
                throws Exception {
            List<MessageExt> popped = found(pop);
            List<String> expected = List.of("ordered-" + number);
            Features.demand(keys(popped).equals(expected), keys(popped) + " instead of " + expected);
            int told = popped.get(0).getReconsumeTimes();
            Features.demand(told == returns, expected + " came before: " + told + ", not " + returns);
            return popped.get(0);
        }
    }

    // --- calls ---

    private String address() throws Exception {
        client.updateTopicRouteInfoFromNameServer(topic);
        return client.findBrokerAddressInPublish(broker);
    }

    /** In order if there is an attempt. */
    private CompletableFuture<PopResult> pop(
            String group, int queueId, int most, long waitMs, String attempt) throws Exception {
        PopMessageRequestHeader header = new PopMessageRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(topic);
        header.setQueueId(queueId);
        header.setMaxMsgNums(most);
        header.setInvisibleTime(INVISIBLE_MS);
        header.setPollTime(waitMs);
        header.setInitMode(ConsumeInitMode.MIN);
        header.setOrder(attempt != null);
        header.setAttemptId(attempt);
        String address = address();
        header.setBornTime(System.currentTimeMillis());
        return calls.popMessageAsync(address, broker, header, waitMs + CALL_MS);
    }

    private CompletableFuture<Boolean> notification(
            String group, int queueId, long waitMs, boolean order) throws Exception {
        NotificationRequestHeader header = new NotificationRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(topic);
        header.setQueueId(queueId);
        header.setPollTime(waitMs);
        header.setOrder(order);
        header.setAttemptId(order ? UUID.randomUUID().toString() : null);
        String address = address();
        header.setBornTime(System.currentTimeMillis());
        return calls.notification(address, header, waitMs + CALL_MS);
    }

    private boolean notified(String group, int queueId, long waitMs, boolean order) throws Exception {
        return result(notification(group, queueId, waitMs, order));
    }

    private AckResult acked(String group, MessageExt message, String handle) throws Exception {
        AckMessageRequestHeader header = new AckMessageRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(ExtraInfoUtil.getRealTopic(ExtraInfoUtil.split(handle), topic, group));
        header.setQueueId(message.getQueueId());
        header.setOffset(message.getQueueOffset());
        header.setExtraInfo(handle);
        return result(calls.ackMessageAsync(address(), header, CALL_MS));
    }

    private AckResult changed(String group, MessageExt message, String handle, long ms)
            throws Exception {
        ChangeInvisibleTimeRequestHeader header = new ChangeInvisibleTimeRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(ExtraInfoUtil.getRealTopic(ExtraInfoUtil.split(handle), topic, group));
        header.setQueueId(message.getQueueId());
        header.setOffset(message.getQueueOffset());
        header.setExtraInfo(handle);
        header.setInvisibleTime(ms);
        return result(calls.changeInvisibleTimeAsync(address(), broker, header, CALL_MS));
    }

    private void ackAll(String group, List<String> handles) throws Exception {
        demandOk(result(calls.batchAckMessageAsync(address(), topic, group, handles, CALL_MS)));
    }

    /** How many requests wait at the broker. Ours counts notifications, too. */
    private int waiting(String group, int queueId) {
        PollingInfoRequestHeader header = new PollingInfoRequestHeader();
        header.setConsumerGroup(group);
        header.setTopic(topic);
        header.setQueueId(queueId);
        try {
            return ((PollingInfoResponseHeader) invoke(RequestCode.POLLING_INFO, header)
                .decodeCommandCustomHeader(PollingInfoResponseHeader.class)).getPollingNum();
        } catch (Exception error) {
            throw new IllegalStateException(error);
        }
    }

    private RemotingCommand invoke(int code, CommandCustomHeader header) throws Exception {
        return result(calls.invoke(
            address(), RemotingCommand.createRequestCommand(code, header), CALL_MS));
    }

    // --- pieces ---

    private void send(String key, int queueId) throws Exception {
        Message message = features.message(key);
        features.retrying(() -> producer.send(message, new MessageQueue(topic, broker, queueId)));
    }

    private void awaitThrough(String group, int queueId) throws Exception {
        MessageQueue queue = new MessageQueue(topic, broker, queueId);
        features.await(() -> {
            try {
                OffsetWrapper found = calls.getConsumeStats(address(), group, CALL_MS)
                    .getOffsetTable().get(queue);
                return found != null && found.getConsumerOffset() == found.getBrokerOffset();
            } catch (Exception error) {
                return false;
            }
        }, () -> group + " is behind");
    }

    private static void demandNothing(CompletableFuture<PopResult> pop, String because)
            throws Exception {
        PopResult popped = result(pop);
        Features.demand(popped.getPopStatus() == PopStatus.POLLING_NOT_FOUND,
            "though " + because + ": " + popped);
    }

    private static void demandOk(AckResult result) {
        Features.demand(result.getStatus() == AckStatus.OK, String.valueOf(result));
    }

    private static List<MessageExt> found(CompletableFuture<PopResult> pop) throws Exception {
        PopResult popped = result(pop);
        Features.demand(popped.getPopStatus() == PopStatus.FOUND, "popped: " + popped);
        return popped.getMsgFoundList();
    }

    private static <T> T result(CompletableFuture<T> call) throws Exception {
        return call.get(PATIENT_MS + 2 * CALL_MS, TimeUnit.MILLISECONDS);
    }

    private static List<String> keys(List<MessageExt> messages) {
        return messages.stream().map(MessageExt::getKeys).collect(Collectors.toList());
    }

    private static String handle(MessageExt message) {
        return message.getProperty(MessageConst.PROPERTY_POP_CK);
    }
}
