package store

import (
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"tollgate/internal/balance"
	"tollgate/internal/servertest"
)

// convertScript converts each amount in ARGV by the factor behind it.
var convertScript = sync.OnceValue(func() *redis.Script {
	var text strings.Builder
	for _, library := range []string{"layout", "convert"} {
		text.WriteString(comment.ReplaceAllString(mustRead("scripts/lib/"+library+".lua"), ""))
	}
	return redis.NewScript(writeOut("local min, max, floor, match = math.min, math.max, math.floor, string.match\n" + text.String() + `
local replies = {}
for i = 1, #ARGV, 2 do
  local units = convert(tonumber(ARGV[i]), ARGV[i + 1])
  replies[#replies + 1] = units and string.format('%.0f', units) or 'false'
end
return replies
`))
})

// conversion is an amount of a feature in the units of a credit system.
type conversion struct {
	units              int64
	cost               balance.Decimal
	precision, credits int // decimal places of the feature, and of the credit system
}

// want is the exact product, rounded up; false if it does not fit.
func (c *conversion) want() string {
	product, ok := new(big.Rat).SetString(c.cost.String())
	if !ok {
		panic(c.cost.String())
	}
	product.Mul(product, new(big.Rat).SetInt64(c.units))
	ten := func(n int) *big.Rat {
		return new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil))
	}
	product.Mul(product, ten(c.credits))
	product.Quo(product, ten(c.precision))
	whole := new(big.Int).Quo(product.Num(), product.Denom())
	if !product.IsInt() {
		whole.Add(whole, big.NewInt(1))
	}
	if whole.Cmp(big.NewInt(balance.MaxUnits)) > 0 {
		return "false"
	}
	return whole.String()
}

type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// holds has Redis work conversions out and compares.
func holds(t fatal, client *redis.Client, tb testing.TB, conversions ...conversion) {
	t.Helper()
	var args []any
	for _, c := range conversions {
		args = append(args, c.units, balance.Factor(c.precision, c.cost, c.credits))
	}
	got, err := convertScript().Run(tb.Context(), client, nil, args...).StringSlice()
	if err != nil {
		t.Fatalf("%v", err)
	}
	for i, c := range conversions {
		if want := c.want(); got[i] != want {
			t.Fatalf("%d units of 10^-%d at %s are %s units of 10^-%d, want %s", c.units, c.precision, c.cost, got[i], c.credits, want)
		}
	}
}

// TestScriptsConvertExactly, also where the product passes what a double counts.
func TestScriptsConvertExactly(t *testing.T) {
	client := servertest.Redis(t)
	t.Run("by hand", func(t *testing.T) {
		for _, text := range []string{"1", "0.1", "0.3", "3", "0.000000001", "9007199254740991", "90071992547409.91", "1e-30", "1e30", "123456789.987654321", "99999999", "10000001"} {
			cost, err := balance.ParseDecimal(text)
			if err != nil {
				t.Fatal(err)
			}
			for _, units := range []int64{1, 2, 9_999_999, 10_000_000, 10_000_001, 99_999_999_999_999, balance.MaxUnits - 1, balance.MaxUnits} {
				for _, precisions := range [][2]int{{0, 0}, {9, 0}, {0, 9}, {6, 3}} {
					holds(t, client, t, conversion{units, cost, precisions[0], precisions[1]})
				}
			}
		}
	})
	t.Run("drawn", func(t *testing.T) {
		rapid.Check(t, func(r *rapid.T) {
			var all []conversion
			for range 50 {
				digits := rapid.StringMatching(`[1-9][0-9]{0,25}`).Draw(r, "digits")
				cost, err := balance.ParseDecimal(fmt.Sprintf("%se%d", digits, rapid.IntRange(-30, 12).Draw(r, "exponent")))
				if err != nil {
					r.Fatal(err)
				}
				size := rapid.Int64Range(1, balance.MaxUnits)
				if rapid.Bool().Draw(r, "small") {
					size = rapid.Int64Range(1, 100_000)
				}
				all = append(all, conversion{
					size.Draw(r, "units"), cost, rapid.IntRange(0, 9).Draw(r, "precision"), rapid.IntRange(0, 9).Draw(r, "of credits"),
				})
			}
			holds(r, client, t, all...)
		})
	})
}

func FuzzConvert(f *testing.F) {
	client := servertest.Redis(f)
	f.Add(balance.MaxUnits, "0.07", uint8(6), uint8(3))
	f.Add(int64(1), "1e-30", uint8(0), uint8(9))
	f.Fuzz(func(t *testing.T, units int64, text string, precision, credits uint8) {
		cost, err := balance.ParseDecimal(text)
		if err != nil || !cost.Positive() || len(text) > 100 || cost.Exponent > 100 || cost.Exponent < -200 || units < 1 || units > balance.MaxUnits {
			t.Skip()
		}
		holds(t, client, t, conversion{units, cost, int(precision % 10), int(credits % 10)})
	})
}
