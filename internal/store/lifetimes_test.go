package store

import (
	"testing"
)

func TestALifetimeSucceedsOnlyTheOneBeforeIt(t *testing.T) {
	f := newFixture(t)
	const partition = "cluster/topic/3"
	noted := func() Lifetime {
		t.Helper()
		lifetime, err := f.store.Lifetime(t.Context(), partition)
		if err != nil {
			t.Fatal(err)
		}
		return lifetime
	}
	if got := noted(); got != (Lifetime{}) {
		t.Errorf("at first %+v is noted", got)
	}
	a, b, c := Lifetime{"A", "one group"}, Lifetime{"B", "another"}, Lifetime{"C", "one group"}
	for i, step := range []struct {
		what   string
		next   Lifetime
		before string
		want   Lifetime
	}{
		{"nothing is noted", a, "lost", a},
		{"it is noted already", a, "lost", a},
		{"another claims to be the first", b, "", a},
		{"another follows one that nobody knows", b, "lost", a},
		{"another follows it", b, "A", b},
		{"the one before comes back", a, "lost", b},
		{"and one that knows no later", c, "A", b},
		{"the third follows", c, "B", c},
		{"the second begins again", b, "A", c},
	} {
		if i == 4 { // whatever Redis has forgotten of scripts
			if err := f.client.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := f.store.Succeed(t.Context(), partition, step.next, step.before)
		if err != nil {
			t.Fatal(err)
		}
		if got != step.want || noted() != step.want {
			t.Errorf("%s: got %+v, noted %+v, want %+v", step.what, got, noted(), step.want)
		}
	}
	if other, err := f.store.Lifetime(t.Context(), "cluster/topic/33"); err != nil || other != (Lifetime{}) {
		t.Errorf("another partition: %+v, %v", other, err)
	}
}

func TestASourceIsThatOfOneLifetime(t *testing.T) {
	seen := map[string]bool{}
	for _, source := range []string{
		Source("k", "t", 0, ""), Source("k", "t", 0, "A"), Source("k", "t", 0, "B"), Source("k", "t", 1, "A"), Source("k", "u", 0, "A"), Source("l", "t", 0, "A"),
	} {
		if seen[source] {
			t.Errorf("two have the name %s", source)
		}
		seen[source] = true
	}
}
