package interop;

import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.impl.MQClientAPIImpl;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageConst;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageRequestMode;
import org.apache.rocketmq.remoting.RPCHook;
import org.apache.rocketmq.remoting.protocol.RemotingCommand;
import org.apache.rocketmq.remoting.protocol.RequestCode;
import org.apache.rocketmq.remoting.protocol.ResponseCode;
import org.apache.rocketmq.remoting.protocol.admin.ConsumeStats;
import org.apache.rocketmq.remoting.protocol.header.AckMessageRequestHeader;
import org.apache.rocketmq.remoting.protocol.header.ExtraInfoUtil;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;

/**
 * Three push consumers of a group that pop, because the broker tells them to. Of what they get, some
 * fail at first and some take too long; all of it is consumed in the end, and nothing comes again
 * once its acknowledgement was answered in time.
 */
final class Popping implements RPCHook {
    private static final int MESSAGES = 240;
    private static final long INVISIBLE_MS = 10_000;

    private final Features features;
    private final String topic;
    private final String group;
    /** Handles by the keys of what was delivered by them. */
    private final Map<String, String> keys = new ConcurrentHashMap<>();
    /** Keys whose acknowledgement was answered while the message was the consumer's own. */
    private final Set<String> acknowledged = ConcurrentHashMap.newKeySet();
    private final Map<String, Integer> returns = new ConcurrentHashMap<>();
    private final ConcurrentLinkedQueue<String> wrong = new ConcurrentLinkedQueue<>();
    private final AtomicBoolean popping = new AtomicBoolean();

    Popping(Features features) {
        this.features = features;
        this.topic = features.topic;
        this.group = features.group("pop");
    }

    void run() throws Exception {
        DefaultMQProducer producer = features.producer();
        MQClientInstance client = producer.getDefaultMQProducerImpl().getMqClientFactory();
        MQClientAPIImpl api = client.getMQClientAPIImpl();
        client.updateTopicRouteInfoFromNameServer(topic);
        for (String broker : brokers(producer)) {
            String address = client.findBrokerAddressInPublish(broker);
            SubscriptionGroupConfig config = new SubscriptionGroupConfig();
            config.setGroupName(group);
            api.createSubscriptionGroup(address, config, 5_000);
            api.setMessageRequestMode(address, topic, group, MessageRequestMode.POP, 0, 5_000);
        }
        List<DefaultMQPushConsumer> consumers = new ArrayList<>();
        for (String instance : List.of("one", "two", "three")) {
            consumers.add(consumer(instance));
        }
        Set<String> sent = new HashSet<>();
        for (int i = 0; i < MESSAGES; i++) {
            if (i == MESSAGES / 2) {
                features.halfway();
            }
            String key = (i % 40 == 7 ? "fails-" : i % 40 == 27 ? "slow-" : "good-") + i;
            sent.add(features.send(producer, features.message(key)));
            if (i % 10 == 0) {
                Message other = new Message(topic, "other", "other-" + i, new byte[] {1});
                features.retrying(() -> producer.send(other));
            }
            Thread.sleep(10);
        }
        features.await(() -> acknowledged.containsAll(sent), () -> {
            Set<String> missing = new HashSet<>(sent);
            missing.removeAll(acknowledged);
            return "not acknowledged: " + missing;
        });
        for (DefaultMQPushConsumer each : consumers) {
            boolean pops = !each.getDefaultMQPushConsumerImpl().getRebalanceImpl()
                .getPopProcessQueueTable().isEmpty();
            Features.demand(pops, each.getInstanceName() + " does not pop");
        }
        returns.forEach((key, count) -> {
            boolean comesBack = key.startsWith("fails-") || key.startsWith("slow-");
            Features.demand(!comesBack || count >= 1, key + " never came again");
            Features.demand(features.failover || comesBack || count == 0, key + " came again");
        });
        Features.demand(wrong.isEmpty(), String.join("; ", wrong));
        features.await(() -> behind(client, producer) == 0, () -> "the group is behind");
    }

    private DefaultMQPushConsumer consumer(String instance) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group, this);
        features.prepare(consumer);
        consumer.setInstanceName(instance);
        consumer.setClientRebalance(false);
        consumer.setPopInvisibleTime(INVISIBLE_MS);
        consumer.setPopBatchNums(8);
        consumer.subscribe(topic, MessageSelector.bySql("TAGS = 'tag'"));
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) ->
            take(messages.get(0)));
        features.start(consumer);
        return consumer;
    }

    private ConsumeConcurrentlyStatus take(MessageExt message) {
        String key = message.getKeys();
        if (acknowledged.contains(key)) {
            wrong.add(key + " came again after its acknowledgement");
        }
        if (!key.startsWith("good-") && !key.startsWith("fails-") && !key.startsWith("slow-")) {
            wrong.add(key + " was not asked for");
        }
        keys.put(place(message.getProperty(MessageConst.PROPERTY_POP_CK)), key);
        returns.merge(key, message.getReconsumeTimes(), Math::max);
        if (message.getReconsumeTimes() == 0 && key.startsWith("fails-")) {
            return ConsumeConcurrentlyStatus.RECONSUME_LATER;
        }
        if (message.getReconsumeTimes() == 0 && key.startsWith("slow-")) {
            try {
                Thread.sleep(INVISIBLE_MS + 500); // so it is somebody else's by then
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
            }
        }
        return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
    }

    @Override public void doBeforeRequest(String address, RemotingCommand request) { }

    @Override public void doAfterResponse(
        String address, RemotingCommand request, RemotingCommand response) {
        if (request.getCode() != RequestCode.ACK_MESSAGE || response == null
            || response.getCode() != ResponseCode.SUCCESS) {
            return;
        }
        String handle = ((AckMessageRequestHeader) request.readCustomHeader()).getExtraInfo();
        String[] words = ExtraInfoUtil.split(handle);
        long until = ExtraInfoUtil.getPopTime(words) + ExtraInfoUtil.getInvisibleTime(words);
        String key = keys.get(place(handle));
        if (key != null && System.currentTimeMillis() < until) {
            acknowledged.add(key);
        }
    }

    /** A handle without how long it is good for. */
    private static String place(String handle) {
        return handle.replaceFirst("^(\\S+ \\S+) \\S+", "$1");
    }

    private Set<String> brokers(DefaultMQProducer producer) throws Exception {
        Set<String> names = new HashSet<>();
        producer.fetchPublishMessageQueues(topic).forEach(queue -> names.add(queue.getBrokerName()));
        return names;
    }

    /** By the offsets of the group, as consumerProgress shows them. */
    private long behind(MQClientInstance client, DefaultMQProducer producer) {
        long behind = 0;
        try {
            for (String broker : brokers(producer)) {
                ConsumeStats stats = client.getMQClientAPIImpl().getConsumeStats(
                    client.findBrokerAddressInPublish(broker), group, 5_000);
                behind += stats.computeTotalDiff();
            }
            return behind;
        } catch (Exception error) {
            return -1;
        }
    }
}
