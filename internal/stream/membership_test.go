package stream_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/heartbeat"

	"tollgate/internal/stream"
)

// TestAMemberThatIsNoneIsTold is a regression: whatever the group answered to a heartbeat was taken for a confirmation.
func TestAMemberThatIsNoneIsTold(t *testing.T) {
	s := newSetting(t)
	e, _ := s.consumer()
	s.send(0, 1)
	e.await(t, 1)
	for _, generation := range []*kafka.Generation{
		{GroupID: s.group, ID: 1, MemberID: "nobody"},
		{GroupID: s.group, ID: 1000, MemberID: "nobody"},
		{GroupID: s.group + ".none", ID: 1, MemberID: "nobody"},
	} {
		if err := stream.ConfirmMembership(t.Context(), s.broker.Client, generation); !errors.Is(err, stream.ErrPartitionLost) {
			t.Errorf("member %s of generation %d in %s: %v", generation.MemberID, generation.ID, generation.GroupID, err)
		}
	}
}

// TestKafkaGoStillReadsHeartbeatsInTheWrongOrder fails once it does not (its pull request 1371): then heartbeatError must go.
func TestKafkaGoStillReadsHeartbeatsInTheWrongOrder(t *testing.T) {
	response := reflect.TypeFor[heartbeat.Response]()
	var names []string
	for i := range response.NumField() {
		if field := response.Field(i); field.Name != "_" {
			names = append(names, field.Name)
		}
	}
	if want := []string{"ErrorCode", "ThrottleTimeMs"}; !reflect.DeepEqual(names, want) {
		t.Errorf("kafka-go reads %v now: take response.Error in place of heartbeatError", names)
	}
}
