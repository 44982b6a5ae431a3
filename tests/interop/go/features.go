package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/admin"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

// What the Go client can do besides sending and consuming: one check each, that says `halfway` where
// a leader may be killed, and returns what was wrong.
type features struct {
	options
	closers []func()
}

const (
	// How early the clocks of two processes let a message be.
	early = 20 * time.Millisecond
	// In time, where no leader is killed and the machine is busy.
	late = 1500 * time.Millisecond
)

func check(o options) int {
	f := &features{options: o}
	defer func() {
		for _, closer := range f.closers {
			closer()
		}
	}()
	checks := map[string]func() error{
		"sends":        f.sends,
		"delay":        f.delay,
		"retry":        f.retry,
		"orderly":      f.orderly,
		"broadcast":    f.broadcast,
		"tags":         f.tags,
		"pull":         f.pull,
		"topics":       f.topics,
		"trace":        f.trace,
		"namespace":    f.namespace,
		"retry-policy": f.retryPolicy,
	}
	run, known := checks[o.check]
	if !known {
		return fail(fmt.Errorf("no check %s", o.check))
	}
	if err := run(); err != nil {
		return fail(err)
	}
	say("done", map[string]any{})
	return 0
}

// Synchronous, asynchronous, one way, in batches: all of it arrives.
func (f *features) sends() error {
	p, err := f.producer()
	if err != nil {
		return err
	}
	sent := map[string]bool{}
	if err := f.send(p, f.message("sync")); err != nil {
		return err
	}
	sent["sync"] = true
	f.halfway()
	answers := make(chan string, 10)
	for i := 0; i < 10; i++ {
		key := fmt.Sprintf("async-%d", i)
		err := f.retrying(func() error {
			return p.SendAsync(context.Background(), func(_ context.Context, _ *primitive.SendResult, err error) {
				if err != nil {
					key = ""
				}
				answers <- key
			}, f.message(key))
		})
		if err != nil {
			return err
		}
	}
	for i := 0; i < 10; i++ {
		if key := <-answers; key != "" {
			sent[key] = true
		} else if !f.failover {
			return fmt.Errorf("an asynchronous send failed")
		}
	}
	var batch []*primitive.Message
	for i := 0; i < 10; i++ {
		batch = append(batch, f.message(fmt.Sprintf("batch-%d", i)))
		sent[fmt.Sprintf("batch-%d", i)] = true
	}
	if err := f.send(p, batch...); err != nil {
		return err
	}
	if !f.failover {
		if err := p.SendOneWay(context.Background(), f.message("one-way")); err != nil {
			return err
		}
		sent["one-way"] = true
	}
	s := newSeen()
	if err := f.consume("sends", "*", s.take); err != nil {
		return err
	}
	return f.wait(func() bool { return s.all(sent) }, s.text)
}

// By level and at a time: each once, not before its time, and soon after it.
func (f *features) delay() error {
	s := newSeen()
	if err := f.consume("delay", "*", s.take); err != nil {
		return err
	}
	p, err := f.producer()
	if err != nil {
		return err
	}
	due := map[string]time.Time{}
	sent := map[string]bool{}
	for i := 0; i < 20; i++ {
		key := fmt.Sprintf("delay-%d", i)
		m := f.message(key)
		now := time.Now()
		if i%2 == 0 {
			m.WithDelayTimeLevel(2)
			due[key] = now.Add(5 * time.Second)
		} else {
			due[key] = now.Add(4*time.Second + time.Duration(i)*100*time.Millisecond)
			m.WithProperty("TIMER_DELIVER_MS", strconv.FormatInt(due[key].UnixMilli(), 10))
		}
		sent[key] = true
		if err := f.send(p, m); err != nil {
			return err
		}
	}
	f.halfway()
	if err := f.wait(func() bool { return s.all(sent) }, s.text); err != nil {
		return err
	}
	for key, at := range due {
		if len(s.places[key]) != 1 {
			return fmt.Errorf("%s at %v", key, s.places[key])
		}
		after := time.UnixMilli(s.stored[key]).Sub(at)
		if after < -early || (after > late && !f.failover) {
			return fmt.Errorf("%s came %v after its time", key, after)
		}
	}
	return nil
}

// A message that fails comes again, and is a dead letter in the end.
func (f *features) retry() error {
	var mutex sync.Mutex
	times := map[string]int32{}
	c, err := f.newConsumer("retry", consumer.WithMaxReconsumeTimes(2))
	if err != nil {
		return err
	}
	err = f.start(c, f.topic, "*", func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		mutex.Lock()
		defer mutex.Unlock()
		m := messages[0]
		times[m.GetKeys()] = max(times[m.GetKeys()], m.ReconsumeTimes)
		if context, ok := primitive.GetConcurrentlyCtx(ctx); ok {
			context.DelayLevelWhenNextConsume = 1
		}
		if m.GetKeys() == "good" || (m.GetKeys() == "second" && m.ReconsumeTimes > 0) {
			return consumer.ConsumeSuccess, nil
		}
		return consumer.ConsumeRetryLater, nil
	})
	if err != nil {
		return err
	}
	p, err := f.producer()
	if err != nil {
		return err
	}
	for _, key := range []string{"good", "second", "bad"} {
		if err := f.send(p, f.message(key)); err != nil {
			return err
		}
	}
	came := func(key string, at_least int32) bool {
		mutex.Lock()
		defer mutex.Unlock()
		found, ok := times[key]
		return ok && found >= at_least
	}
	text := func() string { return fmt.Sprintf("came again: %v", times) }
	if err := f.wait(func() bool { return came("bad", 0) }, text); err != nil {
		return err
	}
	f.halfway()
	if err := f.wait(func() bool { return came("bad", 2) && came("second", 1) }, text); err != nil {
		return err
	}
	dead := newSeen()
	letters := "%DLQ%" + f.group("retry")
	// Go's consumer does not start before there is a route, and one that did not never does.
	err = f.wait(func() bool {
		undertaker, err := f.newConsumer("retry-dead")
		return err == nil && f.start(undertaker, letters, "*", dead.listener(dead.take)) == nil
	}, func() string { return "no route to " + letters })
	if err != nil {
		return err
	}
	return f.wait(func() bool { return dead.all(map[string]bool{"bad": true}) }, dead.text)
}

// Two consumers of a group, each message of a key after the one before it.
func (f *features) orderly() error {
	const keys, each = 8, 40
	var mutex sync.Mutex
	last := map[string]int{}
	var wrong []string
	listener := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		mutex.Lock()
		defer mutex.Unlock()
		for _, m := range messages {
			key, text, _ := strings.Cut(m.GetKeys(), "-")
			number, _ := strconv.Atoi(text)
			before, known := last[key]
			if !known {
				before = -1
			}
			if number > before+1 {
				wrong = append(wrong, fmt.Sprintf("%s after %d", m.GetKeys(), before))
			}
			last[key] = max(before, number)
		}
		return consumer.ConsumeSuccess, nil
	}
	for _, instance := range []string{"one", "two"} {
		c, err := f.newConsumer("orderly", consumer.WithConsumerOrder(true), consumer.WithInstance(instance))
		if err != nil {
			return err
		}
		if err := f.start(c, f.topic, "*", listener); err != nil {
			return err
		}
	}
	p, err := f.producer(producer.WithQueueSelector(producer.NewHashQueueSelector()))
	if err != nil {
		return err
	}
	for number := 0; number < each; number++ {
		if number == each/2 {
			f.halfway()
		}
		for key := 0; key < keys; key++ {
			name := fmt.Sprintf("k%d", key)
			m := f.message(fmt.Sprintf("%s-%d", name, number)).WithShardingKey(name)
			// Tried again until it is acknowledged, or the next would come before it.
			if err := f.send(p, m); err != nil {
				return err
			}
		}
	}
	complete := func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		for _, number := range last {
			if number != each-1 {
				return false
			}
		}
		return len(last) == keys
	}
	if err := f.wait(complete, func() string { return fmt.Sprintf("came as far as %v", last) }); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("out of order: %v", wrong)
	}
	return nil
}

// Every consumer of the group gets every message.
func (f *features) broadcast() error {
	all := []*seen{newSeen(), newSeen()}
	for i, s := range all {
		c, err := f.newConsumer("broadcast",
			consumer.WithConsumerModel(consumer.BroadCasting), consumer.WithInstance(strconv.Itoa(i)))
		if err != nil {
			return err
		}
		if err := f.start(c, f.topic, "*", s.listener(s.take)); err != nil {
			return err
		}
	}
	p, err := f.producer()
	if err != nil {
		return err
	}
	sent := map[string]bool{}
	for i := 0; i < 20; i++ {
		if i == 10 {
			f.halfway()
		}
		key := fmt.Sprintf("broadcast-%d", i)
		sent[key] = true
		if err := f.send(p, f.message(key)); err != nil {
			return err
		}
	}
	for _, s := range all {
		if err := f.wait(func() bool { return s.all(sent) }, s.text); err != nil {
			return err
		}
	}
	return nil
}

// Of several tags, those that were asked for.
func (f *features) tags() error {
	s := newSeen()
	if err := f.consume("tags", "red || blue", s.take); err != nil {
		return err
	}
	p, err := f.producer()
	if err != nil {
		return err
	}
	sent := map[string]bool{}
	for i, tag := range []string{"red", "green", "blue", "green", "red"} {
		if i == 2 {
			f.halfway()
		}
		key := fmt.Sprintf("%s-%d", tag, i)
		sent[key] = tag != "green"
		if err := f.send(p, f.message(key).WithTag(tag)); err != nil {
			return err
		}
	}
	wanted := map[string]bool{}
	for key, asked := range sent {
		if asked {
			wanted[key] = true
		}
	}
	if err := f.wait(func() bool { return s.all(wanted) }, s.text); err != nil {
		return err
	}
	if len(s.places) != len(wanted) {
		return fmt.Errorf("%s", s.text())
	}
	return nil
}

// A consumer that asks for messages, and says what it is done with.
func (f *features) pull() error {
	p, err := f.producer()
	if err != nil {
		return err
	}
	sent := map[string]bool{}
	for i := 0; i < 20; i++ {
		key := fmt.Sprintf("pull-%d", i)
		sent[key] = true
		if err := f.send(p, f.message(key)); err != nil {
			return err
		}
	}
	c, err := rocketmq.NewPullConsumer(
		consumer.WithNameServer(primitive.NamesrvAddr{f.namesrv}),
		consumer.WithGroupName(f.group("pull")),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	)
	if err != nil {
		return err
	}
	if err := c.Subscribe(f.topic, consumer.MessageSelector{Type: consumer.TAG, Expression: "*"}); err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	f.closers = append(f.closers, func() { _ = c.Shutdown() })
	f.halfway()
	s := newSeen()
	return f.wait(func() bool {
		request, err := c.Poll(context.Background(), 500*time.Millisecond)
		if err == nil {
			s.take(request.GetMsgList()...)
			c.ACK(context.Background(), request, consumer.ConsumeSuccess)
		}
		return s.all(sent)
	}, s.text)
}

// Topics are made and deleted.
func (f *features) topics() error {
	a, err := admin.NewAdmin(admin.WithResolver(primitive.NewPassthroughResolver([]string{f.namesrv})))
	if err != nil {
		return err
	}
	f.closers = append(f.closers, func() { _ = a.Close() })
	f.halfway()
	name := f.topic + "-made"
	err = f.retrying(func() error {
		return a.CreateTopic(context.Background(),
			admin.WithTopicCreate(name), admin.WithBrokerAddrCreate(f.broker), admin.WithReadQueueNums(3), admin.WithWriteQueueNums(3))
	})
	if err != nil {
		return err
	}
	p, err := f.producer()
	if err != nil {
		return err
	}
	m := primitive.NewMessage(name, []byte("x"))
	if err := f.send(p, m); err != nil {
		return err
	}
	if err := f.listed(a, name, true); err != nil {
		return err
	}
	err = f.retrying(func() error {
		return a.DeleteTopic(context.Background(),
			admin.WithTopicDelete(name), admin.WithBrokerAddrDelete(f.broker), admin.WithNameSrvAddr([]string{f.namesrv}))
	})
	if err != nil {
		return err
	}
	return f.listed(a, name, false)
}

func (f *features) listed(a admin.Admin, name string, wanted bool) error {
	list, err := a.FetchAllTopicList(context.Background())
	if err != nil {
		return err
	}
	for _, each := range list.TopicList {
		if each == name {
			if wanted {
				return nil
			}
			return fmt.Errorf("deleted and listed: %s", name)
		}
	}
	if wanted {
		return fmt.Errorf("made and not listed: %s", name)
	}
	return nil
}

// The group's policy, a second each time, says when a message comes again; by levels it is 10 s.
func (f *features) retryPolicy() error {
	p, err := f.producer()
	if err != nil {
		return err
	}
	if err := f.send(p, f.message("again")); err != nil {
		return err
	}
	f.halfway()
	c, err := f.newConsumer("retry-policy")
	if err != nil {
		return err
	}
	var mutex sync.Mutex
	seen := map[int32]time.Time{}
	err = f.start(c, f.topic, "*", func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		mutex.Lock()
		defer mutex.Unlock()
		seen[messages[0].ReconsumeTimes] = time.Now()
		if messages[0].ReconsumeTimes < 2 {
			return consumer.ConsumeRetryLater, nil
		}
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		return err
	}
	count := func() int {
		mutex.Lock()
		defer mutex.Unlock()
		return len(seen)
	}
	if err := f.wait(func() bool { return count() == 3 }, func() string { return fmt.Sprint("came times: ", count()) }); err != nil {
		return err
	}
	for times := int32(1); times <= 2; times++ {
		waited := seen[times].Sub(seen[times-1])
		// A new group looks for its retry topic's queues every 20 s only.
		if waited < time.Second-early || (!f.failover && times == 2 && waited > 5*time.Second) {
			return fmt.Errorf("retry %d after %s", times, waited)
		}
	}
	return nil
}

// What is sent in a namespace is consumed there, and tried again there.
func (f *features) namespace() error {
	const namespace = "MQ_INST_2"
	p, err := f.producer(producer.WithNamespace(namespace), producer.WithInstanceName("inside-producer"))
	if err != nil {
		return err
	}
	if err := f.send(p, f.message("inside")); err != nil {
		return err
	}
	outside := newSeen()
	if err := f.consume("outside", "*", outside.take); err != nil {
		return err
	}
	f.halfway()
	c, err := f.newConsumer("namespace", consumer.WithNamespace(namespace), consumer.WithInstance("inside"))
	if err != nil {
		return err
	}
	s := newSeen()
	err = f.start(c, f.topic, "*", func(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		if messages[0].ReconsumeTimes == 0 {
			delay, _ := primitive.GetConcurrentlyCtx(ctx)
			delay.DelayLevelWhenNextConsume = 1
			return consumer.ConsumeRetryLater, nil
		}
		s.take(messages...)
		return consumer.ConsumeSuccess, nil
	})
	if err != nil {
		return err
	}
	if err := f.wait(func() bool { return s.all(map[string]bool{"inside": true}) }, s.text); err != nil {
		return err
	}
	if len(outside.places) != 0 {
		return fmt.Errorf("outside of the namespace: %s", outside.text())
	}
	return nil
}

// Records of what was sent and consumed. Whether they came is for the driver to find out, of
// whatever is `traced`. Those that are sent while a leader dies may be lost: the client tries once.
func (f *features) trace() error {
	config := &primitive.TraceConfig{NamesrvAddrs: []string{f.namesrv}, Access: primitive.Local}
	s := newSeen()
	c, err := f.newConsumer("trace", consumer.WithTrace(config))
	if err != nil {
		return err
	}
	if err := f.start(c, f.topic, "*", s.listener(s.take)); err != nil {
		return err
	}
	p, err := f.producer(producer.WithTrace(config))
	if err != nil {
		return err
	}
	sent := map[string]bool{}
	send := func(key string) error {
		sent[key] = true
		return f.retrying(func() error {
			result, err := p.SendSync(context.Background(), f.message(key))
			if err == nil {
				say("traced", map[string]any{"key": key, "id": result.MsgID})
			}
			return err
		})
	}
	for i := 0; i < 10; i++ {
		if err := send(fmt.Sprintf("before-%d", i)); err != nil {
			return err
		}
	}
	if err := f.wait(func() bool { return s.all(sent) }, s.text); err != nil {
		return err
	}
	after, pause := 10, time.Duration(0)
	if f.failover {
		time.Sleep(2 * time.Second) // the client's own routine sends the records soon
		after, pause = 90, 500*time.Millisecond
	}
	f.halfway()
	for i := 0; i < after; i++ {
		if err := send(fmt.Sprintf("after-%d", i)); err != nil {
			return err
		}
		time.Sleep(pause) // until this client's tracer has asked for the leader
	}
	return f.wait(func() bool { return s.all(sent) }, s.text)
}

// --- pieces ---

type seen struct {
	mutex  sync.Mutex
	places map[string]map[string]bool
	stored map[string]int64
}

func newSeen() *seen {
	return &seen{places: map[string]map[string]bool{}, stored: map[string]int64{}}
}

func (s *seen) take(messages ...*primitive.MessageExt) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, m := range messages {
		key := m.GetKeys()
		if s.places[key] == nil {
			s.places[key] = map[string]bool{}
		}
		s.places[key][fmt.Sprintf("%d/%d", m.Queue.QueueId, m.QueueOffset)] = true
		s.stored[key] = m.StoreTimestamp
	}
}

func (s *seen) all(keys map[string]bool) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for key := range keys {
		if s.places[key] == nil {
			return false
		}
	}
	return true
}

func (s *seen) text() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	var keys []string
	for key := range s.places {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return fmt.Sprintf("seen %v", keys)
}

type listener = func(context.Context, ...*primitive.MessageExt) (consumer.ConsumeResult, error)

func (s *seen) listener(take func(...*primitive.MessageExt)) listener {
	return func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		take(messages...)
		return consumer.ConsumeSuccess, nil
	}
}

func (f *features) halfway() {
	say("halfway", map[string]any{})
	if f.failover {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // the leader is dead
	}
}

func (f *features) group(check string) string { return f.topic + "-" + check }

func (f *features) message(key string) *primitive.Message {
	return primitive.NewMessage(f.topic, []byte("body of "+key)).WithKeys([]string{key}).WithTag("tag")
}

func (f *features) producer(more ...producer.Option) (rocketmq.Producer, error) {
	p, err := rocketmq.NewProducer(append([]producer.Option{
		producer.WithNameServer(primitive.NamesrvAddr{f.namesrv}),
		producer.WithGroupName(f.group("producer")),
	}, more...)...)
	if err != nil {
		return nil, err
	}
	f.closers = append(f.closers, func() { _ = p.Shutdown() })
	return p, p.Start()
}

func (f *features) send(p rocketmq.Producer, messages ...*primitive.Message) error {
	return f.retrying(func() error {
		result, err := p.SendSync(context.Background(), messages...)
		if err == nil && result.Status != primitive.SendOK {
			err = fmt.Errorf("status %d", result.Status)
		}
		return err
	})
}

func (f *features) newConsumer(check string, more ...consumer.Option) (rocketmq.PushConsumer, error) {
	return rocketmq.NewPushConsumer(append([]consumer.Option{
		consumer.WithNameServer(primitive.NamesrvAddr{f.namesrv}),
		consumer.WithGroupName(f.group(check)),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset),
	}, more...)...)
}

func (f *features) consume(check, expression string, take func(...*primitive.MessageExt)) error {
	c, err := f.newConsumer(check)
	if err != nil {
		return err
	}
	return f.start(c, f.topic, expression, newSeen().listener(take))
}

func (f *features) start(c rocketmq.PushConsumer, topic, expression string, l listener) error {
	if err := c.Subscribe(topic, consumer.MessageSelector{Type: consumer.TAG, Expression: expression}, l); err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	f.closers = append(f.closers, func() { _ = c.Shutdown() })
	return nil
}

// As an application would: once, or again and again while a leader is missed.
func (f *features) retrying(action func() error) error {
	end := time.Now().Add(time.Duration(f.deadline) * time.Second)
	for {
		err := action()
		if err == nil || !f.failover || time.Now().After(end) {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (f *features) wait(condition func() bool, otherwise func() string) error {
	end := time.Now().Add(time.Duration(f.deadline) * time.Second)
	for !condition() {
		if time.Now().After(end) {
			return fmt.Errorf("%s", otherwise())
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}
