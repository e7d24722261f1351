// The load of tests/peers/relay.sh: durable messages handed to one server until another has all of them.
//
// It hands over as jincai's own bench does: so many messages under way at most, the next one when the server has confirmed
// that one is durable. It ends, and prints messages per second, when the other server says that it holds them all.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	amqp "github.com/rabbitmq/amqp091-go"
)

// Publishers share the window, so that one connection's parsing bounds nobody.
const publishers = 4

func main() {
	kind := flag.String("kind", "", "rabbitmq or nats; rabbitmq-setup or nats-setup makes what these need")
	queueType := flag.String("type", "", "type of the queues that rabbitmq-setup declares")
	from := flag.String("from", "", "URL of the server that takes the messages")
	to := flag.String("to", "", "URL of the server that they must reach")
	source := flag.String("source", "relay", "queue or stream at the first server")
	sink := flag.String("sink", "relay", "queue or stream at the second server")
	messages := flag.Int("messages", 100000, "messages")
	payload := flag.Int("payload", 1024, "bytes of each message")
	window := flag.Int("in-flight", 1024, "messages that may wait for their confirmation")
	patience := flag.Duration("patience", 5*time.Minute, "how long it may take")
	flag.Parse()
	log.SetFlags(0)
	body := make([]byte, *payload)
	for at := range body {
		body[at] = 7
	}
	ctx, cancel := context.WithTimeout(context.Background(), *patience)
	defer cancel()
	var publish func(context.Context, int, int, []byte) error
	var arrived func() (int, error)
	switch *kind {
	case "rabbitmq":
		publish = func(ctx context.Context, count, window int, body []byte) error {
			return publishRabbit(ctx, *from, *source, count, window, body)
		}
		arrived = rabbitCount(*to, *sink)
	case "nats":
		publish = func(ctx context.Context, count, window int, body []byte) error {
			return publishNats(ctx, *from, *source, count, window, body)
		}
		arrived = natsCount(*to, *sink)
	case "rabbitmq-setup":
		declareQueue(*from, *source, *queueType)
		declareQueue(*to, *sink, *queueType)
		return
	case "nats-setup":
		setUpNats(*from, *to, *source, *sink)
		return
	default:
		log.Fatalf("-kind is %q, none of those that are known", *kind)
	}
	before := must(arrived())
	begun := time.Now()
	var group sync.WaitGroup
	for number := 0; number < publishers; number++ {
		count, share := *messages/publishers, *window/publishers
		if number == 0 {
			count += *messages % publishers
		}
		group.Add(1)
		go func() {
			defer group.Done()
			if err := publish(ctx, count, share, body); err != nil {
				log.Fatalf("publishing: %v", err)
			}
		}()
	}
	group.Wait()
	confirmed := time.Since(begun)
	for must(arrived())-before < *messages {
		if ctx.Err() != nil {
			log.Fatalf("%d of %d messages have arrived after %v", must(arrived())-before, *messages, *patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
	relayed := time.Since(begun)
	log.Printf("confirmed %.0f/s, relayed %.0f/s", float64(*messages)/confirmed.Seconds(), float64(*messages)/relayed.Seconds())
	fmt.Printf("%.0f\n", float64(*messages)/relayed.Seconds())
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func publishRabbit(ctx context.Context, url, queue string, count, window int, body []byte) error {
	connection, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	confirms := channel.NotifyPublish(make(chan amqp.Confirmation, window))
	message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body}
	underWay, done := 0, 0
	take := func() error {
		select {
		case confirm, open := <-confirms:
			if !open || !confirm.Ack {
				return fmt.Errorf("a message was not confirmed")
			}
			underWay--
			done++
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for sent := 0; sent < count; sent++ {
		for underWay >= window {
			if err := take(); err != nil {
				return err
			}
		}
		if err := channel.PublishWithContext(ctx, "", queue, false, false, message); err != nil {
			return err
		}
		underWay++
	}
	for done < count {
		if err := take(); err != nil {
			return err
		}
	}
	return nil
}

func declareQueue(url, queue, queueType string) {
	connection := must(amqp.Dial(url))
	defer connection.Close()
	channel := must(connection.Channel())
	must(channel.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": queueType}))
}

func rabbitCount(url, queue string) func() (int, error) {
	connection := must(amqp.Dial(url))
	channel := must(connection.Channel())
	return func() (int, error) {
		state, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
		return state.Messages, err
	}
}

func publishNats(ctx context.Context, url, stream string, count, window int, body []byte) error {
	connection, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer connection.Close()
	var failed error
	var lock sync.Mutex
	jetStream, err := connection.JetStream(nats.PublishAsyncMaxPending(window),
		nats.PublishAsyncErrHandler(func(_ nats.JetStream, _ *nats.Msg, err error) {
			lock.Lock()
			failed = err
			lock.Unlock()
		}))
	if err != nil {
		return err
	}
	for sent := 0; sent < count; sent++ {
		if _, err := jetStream.PublishAsync(stream+".load", body, nats.StallWait(time.Minute)); err != nil {
			return err
		}
	}
	select {
	case <-jetStream.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	lock.Lock()
	defer lock.Unlock()
	return failed
}

func natsCount(url, stream string) func() (int, error) {
	connection := must(nats.Connect(url))
	jetStream := must(connection.JetStream())
	return func() (int, error) {
		info, err := jetStream.StreamInfo(stream)
		if err != nil {
			return 0, err
		}
		return int(info.State.Msgs), nil
	}
}

// setUpNats makes a stream on file at the first server, whose JetStream domain is "first", and its mirror at the second.
func setUpNats(from, to, source, sink string) {
	first := must(must(nats.Connect(from)).JetStream())
	must(first.AddStream(&nats.StreamConfig{Name: source, Subjects: []string{source + ".load"}, Storage: nats.FileStorage}))
	second := must(must(nats.Connect(to)).JetStream())
	origin := &nats.StreamSource{Name: source, External: &nats.ExternalStream{APIPrefix: "$JS.first.API"}}
	must(second.AddStream(&nats.StreamConfig{Name: sink, Mirror: origin, Storage: nats.FileStorage}))
}
