//go:build chaos

package chaos

import "time"

// life is a time in which a place in the checks topic means one record: another begins when the topic is made again
// or loses records.
type life struct {
	from         int // the number of its first request
	sentBefore   int // requests
	unanswerable int // of its requests
	answered     int
}

// mark is a moment at which so many requests of a life had been sent, and when all of these were
// answered.
type mark struct {
	life     int
	sent     int
	at, done time.Time
}

// mark notes that a fault has ended.
func (s *scene) mark() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	last := len(s.lives) - 1
	l := s.lives[last]
	s.marks = append(s.marks, mark{life: last, sent: int(s.sent.Load()) - l.sentBefore - l.unanswerable, at: time.Now()})
}

// beginLife says that the requests that come are of another life. The load stands still, so that it is known which
// those are.
func (s *scene) beginLife() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.lives = append(s.lives, life{from: s.next, sentBefore: int(s.sent.Load())})
}

// lifeOf is the life of a request with a number. The mutex is held.
func (s *scene) lifeOf(number int) int {
	for i := len(s.lives) - 1; i > 0; i-- {
		if number >= s.lives[i].from {
			return i
		}
	}
	return 0
}

// recovery is the longest time that it took until all that was sent by the end of a
// fault was answered.
func (s *scene) recovery() (longest time.Duration) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, m := range s.marks {
		longest = max(longest, m.done.Sub(m.at))
	}
	return longest
}
