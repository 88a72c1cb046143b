package wire

import (
	"errors"
	"strings"
	"testing"

	"tollgate/internal/balance"
)

const tooLarge = "the record is larger than 65536 bytes"

// headOf is what is kept of a body that goes on and on.
func headOf(body string) []byte {
	const more = `","more":"é\\"`
	return []byte((body + strings.Repeat(more, KeptBytes/len(more)+1))[:KeptBytes])
}

// bothDecode decodes a check and a command, whose types are not told.
func bothDecode(value, key []byte) map[string]func() (customerID string, err error) {
	return map[string]func() (string, error){
		"check":   func() (string, error) { c, err := DecodeCheck(value, key); return c.CustomerID, err },
		"command": func() (string, error) { c, err := DecodeCommand(value, key); return c.CustomerID, err },
	}
}

func TestABodyThatWasCutOffIsRefusedForItsSize(t *testing.T) {
	long := strings.Repeat("x", KeptBytes)
	for _, c := range []struct{ body, key, customer string }{
		{`{"customer_id":"c","padding":"`, "key", "c"},
		{` { "feature_id" : [ 1 , {"customer_id":"nested"} ] , "customer_id" : "c" , "padding" : "`, "key", "c"},
		{`{"nested":{"customer_id":"nested"},"padding":"`, "key", "key"},
		{`{"nested":[{"customer_id":"nested"},"customer_id","nested"],"padding":"`, "key", "key"},
		{`{"text":"\",\"customer_id\":\"text\"","padding":"`, "key", "key"},
		{`{"customer_id":null,"padding":"`, "key", "key"},
		{`{"customer_id":"a","customer_id":"b","padding":"`, "key", "b"},
		{`{"customer\u005fid":"c","padding":"`, "key", "c"},
		{`{"customer_id":"` + long, "key", "key"},
		{`{"padding":` + strings.Repeat("1", KeptBytes), "key", "key"},
		{`{"padding":` + strings.Repeat("[", KeptBytes), "key", "key"},
		{`{"customer_id":"c",` + long, "key", "c"},
		{"{\"customer_id\":\"\xff\",\"padding\":\"", "key", "key"}, // is no text
		{`[{"customer_id":"c"},"`, "key", "key"},
		{`<customer_id>c</customer_id>`, "key", "key"},
		{long, "key", "key"},
	} {
		for name, decode := range bothDecode(headOf(c.body), []byte(c.key)) {
			customer, err := decode()
			var refusal *balance.Error
			if !errors.As(err, &refusal) || refusal.Code != balance.InvalidRequest || refusal.Message != tooLarge || customer != c.customer {
				t.Errorf("%s %.60s: customer %q, %v", name, c.body, customer, err)
			}
		}
	}
}

// TestARuneThatWasCutOffCutsNothingElse wherever in a rune the end is.
func TestARuneThatWasCutOffCutsNothingElse(t *testing.T) {
	for _, filling := range []string{"é", "€", "🙂"} {
		for shift := range filling {
			body := `{"customer_id":"c","padding":"` + strings.Repeat("x", shift) + strings.Repeat(filling, KeptBytes)
			if check, err := DecodeCheck([]byte(body[:KeptBytes]), nil); check.CustomerID != "c" || err == nil || !strings.HasSuffix(err.Error(), tooLarge) {
				t.Errorf("%s, %d: %q, %v", filling, shift, check.CustomerID, err)
			}
		}
	}
}

func TestWhatIsReadOfABodyThatWasCutOff(t *testing.T) {
	check, err := DecodeCheck(headOf(`{"customer_id":"c","feature_id":"f","required_balance":12,"entity_id":"e","padding":"`), nil)
	if want := (Check{CustomerID: "c", FeatureID: "f", EntityID: "e", Required: "12"}); check != want || err == nil {
		t.Errorf("got %+v, %v", check, err)
	}
	// A number may go on behind the end.
	body := `{"customer_id":"c","feature_id":"f","required_balance":`
	body = body + strings.Repeat(" ", KeptBytes-len(body)-2) + "12"
	check, err = DecodeCheck([]byte(body), nil)
	if want := (Check{CustomerID: "c", FeatureID: "f", Required: "1"}); check != want || err == nil {
		t.Errorf("got %+v, %v", check, err)
	}
}

func TestABodyThatWasCutOffAndNamesNobody(t *testing.T) {
	for _, c := range []struct{ body, key, reason string }{
		{`{"padding":"`, "", tooLarge},
		{`{"padding":"`, strings.Repeat("k", MaxIDBytes+1), tooLarge},
		{`{"padding":"`, "\xff", tooLarge},
		// What the customer's id breaks is told, as for a whole body.
		{`{"customer_id":7,"padding":"`, "key", "customer_id must be a string"},
		{`{"customer_id":"","padding":"`, "key", "customer_id must not be empty"},
	} {
		for name, decode := range bothDecode(headOf(c.body), []byte(c.key)) {
			_, err := decode()
			var unreadable *Unreadable
			if !errors.As(err, &unreadable) || unreadable.Reason != c.reason {
				t.Errorf("%s %.60s: got %v", name, c.body, err)
			}
		}
	}
}

// TestAWholeBodyIsNeverTakenForAHead: what is longer or shorter than what is kept of a larger one is whole.
func TestAWholeBodyIsNeverTakenForAHead(t *testing.T) {
	head := headOf(`{"customer_id":"c","padding":"`)
	for _, body := range [][]byte{head[:KeptBytes-1], append(head, 'x')} {
		for name, decode := range bothDecode(body, []byte("key")) {
			_, err := decode()
			var unreadable *Unreadable
			if !errors.As(err, &unreadable) || unreadable.Reason != "the record is no JSON object" {
				t.Errorf("%s of %d bytes: got %v", name, len(body), err)
			}
		}
	}
}
