package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"tollgate/internal/kafka"
	"tollgate/internal/wire"
)

// Replay sends dead letters back to where they came from.
type Replay struct {
	DeadLetters string   // the topic
	To          []string // topics that may be written to; what came from another stays
	Group       string   // under which it is noted how far they were sent back
	DryRun      bool     // only look
}

// Replayed is what became of a dead letter.
type Replayed struct {
	Dead   kafka.Message
	Topic  string // where it came from, "" where it does not say
	Reason string // of its death
	Left   error  // why it was left alone, nil where it was sent back
}

// Run sends back what has come since the last time, up to the end that the topic has
// now, and tells of each. A run that is cut off may send its last records once more.
// It fails with a *Refusal if Kafka does not let this user do it.
func (r *Replay) Run(ctx context.Context, c *Client, tell func(Replayed)) error {
	var partitions []int
	err := c.briefly(ctx, r.reading(), func(ctx context.Context) (err error) {
		partitions, err = c.broker.Partitions(ctx, r.DeadLetters)
		return err
	})
	if err != nil {
		return err
	}
	var committed map[int]int64
	err = c.briefly(ctx, r.noting(), func(ctx context.Context) (err error) {
		committed, err = c.broker.Committed(ctx, r.Group, r.DeadLetters, partitions)
		return err
	})
	if err != nil {
		return err
	}
	for _, partition := range partitions {
		if err := r.partition(ctx, c, partition, committed[partition], tell); err != nil {
			return err
		}
	}
	return nil
}

func (r *Replay) reading() access { return access{verb: "read", topic: r.DeadLetters} }

func (r *Replay) noting() access { return access{verb: "use", group: r.Group} }

// patience bounds how long a step of a replay is tried.
const patience = 30 * time.Second

// briefly is insist within patience: a replay notes how far it came, so it can just as well be started again.
func (c *Client) briefly(ctx context.Context, to access, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return c.insist(ctx, to, &outage{}, func() error { return try(ctx) })
}

// partition sends a partition's dead letters back, from the offset that was committed on.
func (r *Replay) partition(ctx context.Context, c *Client, partition int, committed int64, tell func(Replayed)) error {
	var first, end int64
	err := c.briefly(ctx, r.reading(), func(ctx context.Context) (err error) {
		if first, err = c.broker.FirstOffset(ctx, r.DeadLetters, partition); err == nil {
			end, err = c.broker.LastOffset(ctx, r.DeadLetters, partition)
		}
		return err
	})
	if err != nil {
		return err
	}
	if committed > end {
		return fmt.Errorf("topic %s was truncated or made anew: partition %d ends at offset %d, and group %s has noted %d; another --group begins with the first record",
			r.DeadLetters, partition, end, r.Group, committed)
	}
	for offset := max(first, committed); offset < end; {
		if offset, err = r.batch(ctx, c, partition, offset, end, tell); err != nil {
			return err
		}
	}
	return nil
}

// batch sends back what one fetch brings, and returns the offset behind it.
func (r *Replay) batch(ctx context.Context, c *Client, partition int, offset, end int64, tell func(Replayed)) (next int64, err error) {
	var fetched kafka.Records
	err = c.briefly(ctx, r.reading(), func(ctx context.Context) (err error) {
		fetched, err = c.broker.FetchRecords(ctx, r.DeadLetters, partition, offset, kafka.FetchMaxBytes)
		return err
	})
	if err != nil {
		return offset, err
	}
	var records []kafka.Message
	var told []Replayed
	for _, dead := range fetched.Messages {
		if dead.Offset >= end {
			break
		}
		record, one := r.revive(dead)
		if one.Left == nil {
			records = append(records, record)
		}
		told = append(told, one)
	}
	if !r.DryRun {
		if err := c.Send(ctx, records); err != nil {
			return offset, err
		}
		err := c.briefly(ctx, r.noting(), func(ctx context.Context) error {
			return c.broker.Commit(ctx, r.Group, r.DeadLetters, partition, min(fetched.Next, end))
		})
		if err != nil {
			return offset, err
		}
	}
	for _, one := range told {
		tell(one)
	}
	return fetched.Next, nil
}

func (r *Replay) revive(dead kafka.Message) (kafka.Message, Replayed) {
	record, reason, err := wire.Revived(&dead)
	if err == nil && !slices.Contains(r.To, record.Topic) {
		err = fmt.Errorf("it came from %s, which is no topic of requests", record.Topic)
	}
	return record, Replayed{Dead: dead, Topic: record.Topic, Reason: reason, Left: err}
}
