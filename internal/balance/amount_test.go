package balance

import (
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestUnitsOfADecimal(t *testing.T) {
	for _, c := range []struct {
		text      string
		precision int
		units     int64
		err       error
	}{
		{"0", 0, 0, nil}, {"-0", 3, 0, nil}, {"0.000", 0, 0, nil}, {"0e999999999999", 0, 0, nil},
		{"1", 0, 1, nil}, {"1.0", 0, 1, nil}, {"-2.50", 1, -25, nil}, {"0.1", 6, 100000, nil},
		{"1e3", 0, 1000, nil}, {"1E-3", 3, 1, nil}, {"12.5e1", 0, 125, nil}, {"1e+2", 0, 100, nil},
		{"9007199254740991", 0, MaxUnits, nil}, {"9007199254.740991", 6, MaxUnits, nil}, {"-9007199254740991", 0, -MaxUnits, nil},
		{"9007199254740992", 0, 0, ErrOutOfRange}, {"9007199254740991", 1, 0, ErrOutOfRange}, {"1e400", 0, 0, ErrOutOfRange},
		{"1e99999999999999999999", 0, 0, ErrOutOfRange}, {"1e-99999999999999999999", 9, 0, ErrTooPrecise},
		{"0.1", 0, 0, ErrTooPrecise}, {"1e-7", 6, 0, ErrTooPrecise},
		{"", 0, 0, ErrNotDecimal}, {"-", 0, 0, ErrNotDecimal}, {".5", 0, 0, ErrNotDecimal}, {"5.", 0, 0, ErrNotDecimal},
		{"1e", 0, 0, ErrNotDecimal}, {"1e+-2", 0, 0, ErrNotDecimal}, {"0x1", 0, 0, ErrNotDecimal}, {"NaN", 0, 0, ErrNotDecimal}, {"1,5", 0, 0, ErrNotDecimal},
	} {
		units, err := ParseUnits(c.text, c.precision)
		if units != c.units || !errors.Is(err, c.err) {
			t.Errorf("ParseUnits(%q, %d) = %d, %v; want %d, %v", c.text, c.precision, units, err, c.units, c.err)
		}
	}
}

func TestUnitsAreWrittenAsTheyAreRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		units := rapid.Int64Range(-MaxUnits, MaxUnits).Draw(t, "units")
		precision := rapid.IntRange(0, MaxPrecision).Draw(t, "precision")
		text := FormatUnits(units, precision)
		if !json.Valid([]byte(text)) {
			t.Fatalf("%q is no JSON", text)
		}
		if back, err := ParseUnits(text, precision); back != units || err != nil {
			t.Fatalf("%d with precision %d is written %q and read %d, %v", units, precision, text, back, err)
		}
	})
}

func TestConvertRoundsUp(t *testing.T) {
	for _, c := range []struct {
		units int64
		from  int
		cost  string
		to    int
		want  int64
	}{
		{1, 0, "0.3", 0, 1}, {4, 0, "0.3", 0, 2}, {10, 0, "0.3", 0, 3}, {0, 0, "0.3", 0, 0},
		{-1, 0, "0.3", 0, 0}, {-4, 0, "0.3", 0, -1}, {-10, 0, "0.3", 0, -3},
		{1, 9, "0.000001", 9, 1}, {-999999, 9, "0.000001", 9, 0}, {-1000000, 9, "0.000001", 9, -1},
	} {
		cost, err := ParseDecimal(c.cost)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Convert(c.units, c.from, cost, c.to); got != c.want || err != nil {
			t.Errorf("%d at %s is %d, %v; want %d", c.units, c.cost, got, err, c.want)
		}
	}
}

// TestGivingBackInPartsReturnsNoMore: whatever is taken at once and given back bit by bit.
func TestGivingBackInPartsReturnsNoMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cost, err := ParseDecimal(rapid.StringMatching(`(0|[1-9][0-9]{0,2})\.[0-9]{0,5}[1-9]`).Draw(t, "cost"))
		if err != nil {
			t.Fatal(err)
		}
		from, to := rapid.IntRange(0, MaxPrecision).Draw(t, "from"), rapid.IntRange(0, MaxPrecision).Draw(t, "to")
		taken, returned := int64(0), int64(0)
		for _, part := range rapid.SliceOfN(rapid.Int64Range(0, 1000), 1, 20).Draw(t, "parts") {
			taken += part
			back, err := Convert(-part, from, cost, to)
			if err != nil {
				t.Skip("it does not fit")
			}
			returned -= back
		}
		took, err := Convert(taken, from, cost, to)
		if err != nil {
			t.Skip("it does not fit")
		}
		if returned > took {
			t.Fatalf("%d at %v took %d, and %d came back", taken, cost, took, returned)
		}
	})
}

func TestConvertIsTheExactProductRoundedUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		units := rapid.Int64Range(-MaxUnits, MaxUnits).Draw(t, "units")
		cost := Decimal{Digits: rapid.StringMatching(`[1-9]([0-9]{0,6}[1-9])?`).Draw(t, "digits"), Exponent: rapid.IntRange(-9, 3).Draw(t, "exponent")}
		from, to := rapid.IntRange(0, MaxPrecision).Draw(t, "from"), rapid.IntRange(0, MaxPrecision).Draw(t, "to")
		exact, _ := new(big.Rat).SetString(cost.String())
		exact.Mul(exact, big.NewRat(units, 1))
		exact.Mul(exact, new(big.Rat).SetFrac(pow10(to), pow10(from)))
		want, rest := new(big.Int).DivMod(exact.Num(), exact.Denom(), new(big.Int)) // rounded down: the rest is never negative
		if rest.Sign() > 0 {
			want.Add(want, big.NewInt(1))
		}
		got, err := Convert(units, from, cost, to)
		fits := new(big.Int).Abs(want).Cmp(big.NewInt(MaxUnits)) <= 0
		switch {
		case !fits && !errors.Is(err, ErrOutOfRange):
			t.Fatalf("%v does not fit, got %d, %v", want, got, err)
		case fits && (err != nil || got != want.Int64()):
			t.Fatalf("want %v, got %d, %v", want, got, err)
		}
	})
}

func TestCompareIsThatOfTheNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.StringMatching(`-?(0|[1-9][0-9]{0,5})(\.[0-9]{1,4})?([eE][+-]?[0-9])?`)
		x, y := number.Draw(t, "x"), number.Draw(t, "y")
		a, errA := ParseDecimal(x)
		b, errB := ParseDecimal(y)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		ratA, _ := new(big.Rat).SetString(x)
		ratB, _ := new(big.Rat).SetString(y)
		if got, want := a.Compare(b), ratA.Cmp(ratB); got != want {
			t.Fatalf("%s to %s: got %d, want %d", x, y, got, want)
		}
		if back, err := ParseDecimal(a.String()); err != nil || back != a {
			t.Fatalf("%s is written %s and read %+v, %v", x, a, back, err)
		}
	})
}

// FuzzParseDecimal: every JSON number is a decimal, and means what it says.
func FuzzParseDecimal(f *testing.F) {
	for _, seed := range []string{"0", "-1.5e3", "1e-9", "00", "1.", "e", "9007199254740993", "1e999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDecimal(text)
		isNumber := json.Valid([]byte(text)) && strings.ContainsAny(text[:1], "-0123456789") && strings.TrimSpace(text) == text
		if isNumber && err != nil {
			t.Fatalf("a JSON number is refused: %v", err)
		}
		if err != nil {
			return
		}
		if d.Exponent < -400 || d.Exponent > 400 || d.Digits == "" {
			return // as text, such a number fills the memory; and zero is zero with any exponent
		}
		want, ok := new(big.Rat).SetString(text)
		got, _ := new(big.Rat).SetString(d.String())
		if !ok || want.Cmp(got) != 0 {
			t.Fatalf("%q is read as %s", text, d)
		}
	})
}
