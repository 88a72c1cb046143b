package console

import (
	"sync"
	"sync/atomic"
	"time"

	"tollgate/internal/wire"
)

const (
	feedLength = 50
	// feedPerSecond bounds what a busy worker spends on a page that nobody may look at.
	feedPerSecond = 20
)

// Decision is a check that was decided, as the page shows it.
type Decision struct {
	AtMs       int64  `json:"at"`
	CustomerID string `json:"customer_id"`
	FeatureID  string `json:"feature_id"`
	EntityID   string `json:"entity_id,omitempty"`
	Code       string `json:"code"`
	Allowed    bool   `json:"allowed"`
}

// Feed keeps a sample of the latest decisions.
type Feed struct {
	second atomic.Int64 // that decisions are counted in
	taken  atomic.Int64 // in that second
	mutex  sync.Mutex
	latest []Decision // oldest first
}

// Checked takes a decision, or not.
func (f *Feed) Checked(result *wire.Result) {
	second := time.Now().Unix()
	if f.second.Swap(second) != second {
		f.taken.Store(0)
	}
	if f.taken.Add(1) > feedPerSecond {
		return
	}
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if len(f.latest) == feedLength {
		f.latest = append(f.latest[:0], f.latest[1:]...)
	}
	f.latest = append(f.latest, Decision{
		AtMs: result.EvaluatedMs, CustomerID: result.CustomerID, FeatureID: result.FeatureID, EntityID: result.EntityID,
		Code: string(result.Code), Allowed: result.Allowed(),
	})
}

// Latest are the decisions taken, the newest first.
func (f *Feed) Latest() []Decision {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	latest := make([]Decision, len(f.latest))
	for i := range latest {
		latest[i] = f.latest[len(f.latest)-1-i]
	}
	return latest
}
