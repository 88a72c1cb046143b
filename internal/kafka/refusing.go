package kafka

import (
	"sync"
	"time"
)

// refusalForgotten is after how long without a try a topic that refuses something is given its time again.
const refusalForgotten = 6 * layoutTTL

// refusing are topics that take nothing, for all publications: only the first ones wait for them.
type refusing struct {
	mutex  sync.Mutex
	topics map[string]refusedSince
}

type refusedSince struct {
	first, last time.Time
	err         error
}

// note says that a topic has refused something.
func (r *refusing) note(topic string, err error) {
	if !IsTopicRefused(err) {
		return
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	known := r.topics[topic]
	if time.Since(known.last) > refusalForgotten {
		known.first = time.Now()
	}
	known.last, known.err = time.Now(), err
	r.topics[topic] = known
}

func (r *refusing) clear(topic string) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	delete(r.topics, topic)
}

// forLong lists the topics that have refused everything for longer than one does that is being made, and why. One
// that was not asked for a while is left out: it may be there by now.
func (r *refusing) forLong() map[string]error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	var list map[string]error
	for topic, since := range r.topics {
		if time.Since(since.first) >= topicPatience && time.Since(since.last) < layoutTTL {
			if list == nil {
				list = map[string]error{}
			}
			list[topic] = since.err
		}
	}
	return list
}
