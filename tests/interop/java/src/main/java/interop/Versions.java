package interop;

import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.HashMap;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.impl.factory.MQClientInstance;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;

/**
 * Where the API of 4.9 is another than that of 5.x, with which this is compiled: some of it was
 * moved, some had other parameters, and timer messages had no methods yet.
 */
final class Versions {
    private Versions() { }

    static void setDelayTimeMs(Message message, long ms) {
        try {
            message.setDelayTimeMs(ms);
        } catch (NoSuchMethodError in4) {
            MessageAccessor.putProperty(message, "TIMER_DELAY_MS", String.valueOf(ms));
        }
    }

    static void setDeliverTimeMs(Message message, long at) {
        try {
            message.setDeliverTimeMs(at);
        } catch (NoSuchMethodError in4) {
            MessageAccessor.putProperty(message, "TIMER_DELIVER_MS", String.valueOf(at));
        }
    }

    /** The enum of the models was in another package. */
    static void setBroadcasting(DefaultMQPushConsumer consumer) throws Exception {
        for (Method method : DefaultMQPushConsumer.class.getMethods()) {
            if (method.getName().equals("setMessageModel")) {
                for (Object model : method.getParameterTypes()[0].getEnumConstants()) {
                    if (((Enum<?>) model).name().equals("BROADCASTING")) {
                        method.invoke(consumer, model);
                        return;
                    }
                }
            }
        }
        throw new NoSuchMethodException("setMessageModel");
    }

    /** Topics had no attributes. */
    static void createTopic(DefaultMQProducer producer, String key, String topic, int queues)
            throws Exception {
        try {
            producer.createTopic(key, topic, queues, new HashMap<>());
        } catch (NoSuchMethodError in4) {
            Method method = DefaultMQProducer.class.getMethod(
                "createTopic", String.class, String.class, int.class);
            try {
                method.invoke(producer, key, topic, queues);
            } catch (InvocationTargetException wrapped) {
                throw (Exception) wrapped.getCause();
            }
        }
    }

    static void deleteTopicInNameServer(MQClientInstance client, String namesrv, String topic)
            throws Exception {
        try {
            client.getMQClientAPIImpl().deleteTopicInNameServer(namesrv, topic, 5_000);
        } catch (NoSuchMethodError in4) {
            client.getMQClientAPIImpl().deleteTopicInNameServer(
                namesrv, topic, "DefaultCluster", 5_000);
        }
    }
}
