package client

import (
	"context"
	"fmt"
	"slices"

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
func (r *Replay) Run(ctx context.Context, c *Client, tell func(Replayed)) error {
	partitions, err := c.broker.Partitions(ctx, r.DeadLetters)
	if err != nil {
		return err
	}
	committed, err := c.broker.Committed(ctx, r.Group, r.DeadLetters, partitions)
	if err != nil {
		return err
	}
	for _, partition := range partitions {
		first, err := c.broker.FirstOffset(ctx, r.DeadLetters, partition)
		if err != nil {
			return err
		}
		if err := r.partition(ctx, c, partition, max(first, committed[partition]), tell); err != nil {
			return err
		}
	}
	return nil
}

func (r *Replay) partition(ctx context.Context, c *Client, partition int, offset int64, tell func(Replayed)) error {
	end, err := c.broker.LastOffset(ctx, r.DeadLetters, partition)
	if err != nil {
		return err
	}
	for offset < end {
		fetched, err := c.broker.FetchRecords(ctx, r.DeadLetters, partition, offset, kafka.FetchMaxBytes)
		if err != nil {
			return err
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
				return err
			}
			if err := c.broker.Commit(ctx, r.Group, r.DeadLetters, partition, min(fetched.Next, end)); err != nil {
				return err
			}
		}
		for _, one := range told {
			tell(one)
		}
		offset = fetched.Next
	}
	return nil
}

func (r *Replay) revive(dead kafka.Message) (kafka.Message, Replayed) {
	record, reason, err := wire.Revived(&dead)
	if err == nil && !slices.Contains(r.To, record.Topic) {
		err = fmt.Errorf("it came from %s, which is no topic of requests", record.Topic)
	}
	return record, Replayed{Dead: dead, Topic: record.Topic, Reason: reason, Left: err}
}
