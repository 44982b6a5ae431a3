// Apache's Go client, unmodified, as one of four that say in JSON lines what it saw.
//
// What every program here prints, and how it is told to stop, is in ../README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

// As an application would pause, once the client's own retries are used up.
const pauseAfterFailure = 500 * time.Millisecond

// What a requester grants the replier, who may still be waiting for its queues.
const replyWithin = 10 * time.Second

// This client beats a second after its start, and only those brokers whose routes it knows by then;
// until it has, no broker can push to it. Its first requests, with this key, may fail.
const hello = "hello"

type options struct {
	namesrv, topic, group, log, sql string
	check, broker                   string
	failover                        bool
	count, deadline, interval       int
}

var stdout sync.Mutex

func say(event string, facts map[string]any) {
	facts["event"] = event
	line, err := json.Marshal(facts)
	if err != nil {
		panic(err)
	}
	stdout.Lock()
	defer stdout.Unlock()
	fmt.Println(string(line))
}

func fail(err error) int {
	say("error", map[string]any{"error": err.Error()})
	return 1
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: interop producer|transactions|consumer|requester|replier|check --namesrv …")
		os.Exit(2)
	}
	var o options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.namesrv, "namesrv", "", "host:port")
	flags.StringVar(&o.topic, "topic", "", "topic")
	flags.StringVar(&o.group, "group", "", "producer or consumer group")
	flags.StringVar(&o.log, "log", "", "file for the client's own log")
	flags.StringVar(&o.sql, "sql", "", "what a consumer subscribes to, instead of the tag")
	flags.IntVar(&o.count, "count", 0, "messages to send or to wait for")
	flags.IntVar(&o.interval, "interval-ms", 0, "pause between two messages")
	flags.IntVar(&o.deadline, "deadline-s", 60, "give up after")
	flags.StringVar(&o.check, "check", "", "feature to try")
	flags.StringVar(&o.broker, "broker", "", "host:port of a broker, for what is asked of one")
	failover := flags.String("failover", "false", "whether the leader is killed halfway")
	_ = flags.Parse(os.Args[2:])
	o.failover = *failover == "true"
	if o.log != "" {
		if err := rlog.SetOutputPath(o.log); err != nil {
			os.Exit(fail(err))
		}
	}
	switch os.Args[1] {
	case "producer":
		os.Exit(produce(o))
	case "transactions":
		os.Exit(transact(o))
	case "consumer":
		os.Exit(consume(o))
	case "check":
		os.Exit(check(o))
	case "requester":
		os.Exit(request(o))
	case "replier":
		os.Exit(reply(o))
	default:
		fmt.Fprintf(os.Stderr, "unknown role %s\n", os.Args[1])
		os.Exit(2)
	}
}

func produce(o options) int {
	p, err := newProducer(o, o.group)
	if err != nil {
		return fail(err)
	}
	say("ready", map[string]any{})
	end := time.Now().Add(time.Duration(o.deadline) * time.Second)
	acked, failed := 0, 0
	i := 0
	var message *primitive.Message
	for acked < o.count && time.Now().Before(end) {
		key := fmt.Sprintf("%s-%06d", o.group, i)
		if message == nil { // else it is sent again, and has its unique id
			message = primitive.NewMessage(o.topic, []byte("body of "+key)).WithKeys([]string{key}).WithTag("interop")
			message.WithProperty("number", strconv.Itoa(i))
			message.WithProperty("third", strconv.Itoa(i%3))
		}
		result, err := p.SendSync(context.Background(), message)
		if err == nil && result.Status != primitive.SendOK {
			err = fmt.Errorf("status %d", result.Status)
		}
		if err != nil {
			failed++
			say("failed", map[string]any{"key": key, "error": err.Error()})
			time.Sleep(pauseAfterFailure)
			continue
		}
		acked++
		i++
		message = nil
		say("acked", map[string]any{
			"key":    key,
			"broker": result.MessageQueue.BrokerName,
			"queue":  result.MessageQueue.QueueId,
			"offset": result.QueueOffset,
		})
		time.Sleep(time.Duration(o.interval) * time.Millisecond)
	}
	_ = p.Shutdown()
	say("done", map[string]any{"acked": acked, "failed": failed})
	if acked < o.count {
		return 1
	}
	return 0
}

// Half messages, of which every fourth is committed, rolled back, or left to a check.
type local struct{}

func number(key string) int {
	n, err := strconv.Atoi(key[len(key)-6:])
	if err != nil {
		panic(err)
	}
	return n
}

func (l *local) ExecuteLocalTransaction(message *primitive.Message) primitive.LocalTransactionState {
	switch number(message.GetKeys()) % 4 {
	case 0:
		return primitive.CommitMessageState
	case 1:
		return primitive.RollbackMessageState
	default:
		return primitive.UnknowState
	}
}

func (l *local) CheckLocalTransaction(message *primitive.MessageExt) primitive.LocalTransactionState {
	say("checked", map[string]any{"key": message.GetKeys()})
	if number(message.GetKeys())%2 == 0 {
		return primitive.CommitMessageState
	}
	return primitive.RollbackMessageState
}

func transact(o options) int {
	p, err := rocketmq.NewTransactionProducer(
		&local{},
		producer.WithNameServer(primitive.NamesrvAddr{o.namesrv}),
		producer.WithGroupName(o.group),
	)
	if err != nil {
		return fail(err)
	}
	if err := p.Start(); err != nil {
		return fail(err)
	}
	say("ready", map[string]any{})
	end := time.Now().Add(time.Duration(o.deadline) * time.Second)
	prepared, failed := 0, 0
	for i := 0; prepared < o.count && time.Now().Before(end); i++ {
		key := fmt.Sprintf("%s-%06d", o.group, i)
		message := primitive.NewMessage(o.topic, []byte("body of "+key)).WithKeys([]string{key}).WithTag("interop")
		result, err := p.SendMessageInTransaction(context.Background(), message)
		if err == nil && result.Status != primitive.SendOK {
			err = fmt.Errorf("status %d", result.Status)
		}
		if err != nil {
			failed++
			say("failed", map[string]any{"key": key, "error": err.Error()})
			time.Sleep(pauseAfterFailure)
			continue
		}
		prepared++
		say("prepared", map[string]any{"key": key, "number": i})
		time.Sleep(time.Duration(o.interval) * time.Millisecond)
	}
	say("done", map[string]any{"prepared": prepared, "failed": failed})
	for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); { // checks come until the driver has seen enough
	}
	_ = p.Shutdown()
	if prepared < o.count {
		return 1
	}
	return 0
}

func consume(o options) int {
	seen := map[string]bool{}
	complete := make(chan struct{}, 1)
	var mutex sync.Mutex
	c, err := rocketmq.NewPushConsumer(
		consumer.WithNameServer(primitive.NamesrvAddr{o.namesrv}),
		consumer.WithGroupName(o.group),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	)
	if err != nil {
		return fail(err)
	}
	listener := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		mutex.Lock()
		defer mutex.Unlock()
		for _, m := range messages {
			key := m.GetKeys()
			if string(m.Body) != "body of "+key {
				say("error", map[string]any{"error": fmt.Sprintf("%s has the body %q", key, m.Body)})
			}
			say("received", map[string]any{
				"key":    key,
				"queue":  m.Queue.QueueId,
				"offset": m.QueueOffset,
				"half":   m.PreparedTransactionOffset,
			})
			seen[key] = true
		}
		if len(seen) == o.count {
			select {
			case complete <- struct{}{}:
			default:
			}
		}
		return consumer.ConsumeSuccess, nil
	}
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: "interop"}
	if o.sql != "" {
		selector = consumer.MessageSelector{Type: consumer.SQL92, Expression: o.sql}
	}
	if err := c.Subscribe(o.topic, selector, listener); err != nil {
		return fail(err)
	}
	if err := c.Start(); err != nil {
		return fail(err)
	}
	say("ready", map[string]any{})
	stopped := make(chan struct{})
	go func() { // the end of standard input is the driver's word that all has been seen
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		}
		close(stopped)
	}()
	code := 0
	select {
	case <-complete:
	case <-stopped:
	case <-time.After(time.Duration(o.deadline) * time.Second):
		code = 1
	}
	_ = c.Shutdown()
	mutex.Lock()
	defer mutex.Unlock()
	say("done", map[string]any{"seen": len(seen)})
	return code
}

func request(o options) int {
	p, err := newProducer(o, o.group)
	if err != nil {
		return fail(err)
	}
	say("ready", map[string]any{})
	end := time.Now().Add(time.Duration(o.deadline) * time.Second)
	for time.Now().Before(end) {
		message := primitive.NewMessage(o.topic, []byte(hello)).WithKeys([]string{hello}).WithTag("interop")
		if _, err := p.Request(context.Background(), time.Second, message); err == nil {
			break
		}
	}
	replied := 0
	for i := 0; replied < o.count && time.Now().Before(end); i++ {
		key := fmt.Sprintf("%s-%06d", o.group, i)
		message := primitive.NewMessage(o.topic, []byte("body of "+key)).WithKeys([]string{key}).WithTag("interop")
		answer, err := p.Request(context.Background(), replyWithin, message)
		if err != nil {
			say("failed", map[string]any{"key": key, "error": err.Error()})
			time.Sleep(pauseAfterFailure)
			continue
		}
		if string(answer.Body) != "reply to "+key {
			say("error", map[string]any{"error": fmt.Sprintf("the reply to %s is %q", key, answer.Body)})
		}
		replied++
		say("replied", map[string]any{"key": key})
		time.Sleep(time.Duration(o.interval) * time.Millisecond)
	}
	_ = p.Shutdown()
	say("done", map[string]any{"replied": replied})
	if replied < o.count {
		return 1
	}
	return 0
}

func reply(o options) int {
	p, err := newProducer(o, o.group+"-out")
	if err != nil {
		return fail(err)
	}
	c, err := rocketmq.NewPushConsumer(
		consumer.WithNameServer(primitive.NamesrvAddr{o.namesrv}),
		consumer.WithGroupName(o.group),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	)
	if err != nil {
		return fail(err)
	}
	listener := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, m := range messages {
			key := m.GetKeys()
			say("received", map[string]any{"key": key, "queue": m.Queue.QueueId, "offset": m.QueueOffset})
			if m.GetProperty(primitive.PropertyMessageReplyToClient) == "" {
				continue // not a request
			}
			answer, err := consumer.CreateReplyMessage(m, nil)
			if err == nil {
				answer.Body = []byte("reply to " + key) // the client leaves it empty
				_, err = p.SendSync(context.Background(), answer)
			}
			if err != nil && key != hello {
				say("failed", map[string]any{"key": key, "error": err.Error()})
			}
		}
		return consumer.ConsumeSuccess, nil
	}
	if err := c.Subscribe(o.topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "interop"}, listener); err != nil {
		return fail(err)
	}
	if err := c.Start(); err != nil {
		return fail(err)
	}
	say("ready", map[string]any{})
	stopped := make(chan struct{})
	go func() { // the end of standard input is the driver's word that all has been seen
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		}
		close(stopped)
	}()
	code := 0
	select {
	case <-stopped:
	case <-time.After(time.Duration(o.deadline) * time.Second):
		code = 1
	}
	_ = c.Shutdown()
	_ = p.Shutdown()
	return code
}

func newProducer(o options, group string) (rocketmq.Producer, error) {
	p, err := rocketmq.NewProducer(
		producer.WithNameServer(primitive.NamesrvAddr{o.namesrv}),
		producer.WithGroupName(group),
	)
	if err != nil {
		return nil, err
	}
	return p, p.Start()
}
