package balance

import (
	"errors"
	"math/big"
	"strconv"
	"strings"
)

// MaxUnits is the largest amount a balance can hold, in units of
// 10^-precision: the largest integer up to which a Lua number (an IEEE 754
// double) counts without gaps.
const MaxUnits int64 = 1<<53 - 1

// MaxPrecision is the largest number of decimal places a feature may have.
const MaxPrecision = 9

var (
	// ErrNotDecimal says that a text is no decimal number.
	ErrNotDecimal = errors.New("not a decimal number")
	// ErrTooPrecise says that a number has more decimals than its feature.
	ErrTooPrecise = errors.New("more decimals than the feature has")
	// ErrOutOfRange says that an amount does not fit, either way.
	ErrOutOfRange = errors.New("amount out of range")
)

// maxExponent bounds the exponents that ParseDecimal reads. Anything beyond
// is as far out of every range as the bound itself.
const maxExponent = 1 << 20

// Decimal is an exact decimal number, (-1)^Negative × Digits × 10^Exponent.
// Digits has neither leading nor trailing zeros; zero has no digits at all.
type Decimal struct {
	Negative bool
	Digits   string
	Exponent int
}

// ParseDecimal reads a decimal number as JSON writes it: sign, digits,
// fraction, exponent. It fails with ErrNotDecimal.
func ParseDecimal(text string) (Decimal, error) {
	var d Decimal
	rest := text
	if strings.HasPrefix(rest, "-") {
		d.Negative, rest = true, rest[1:]
	}
	mantissa, exponent := rest, 0
	if i := strings.IndexAny(rest, "eE"); i >= 0 {
		mantissa = rest[:i]
		e, err := parseExponent(rest[i+1:])
		if err != nil {
			return Decimal{}, err
		}
		exponent = e
	}
	whole, fraction, pointed := strings.Cut(mantissa, ".")
	if whole == "" || (pointed && fraction == "") || !allDigits(whole) || !allDigits(fraction) {
		return Decimal{}, ErrNotDecimal
	}
	digits := strings.TrimLeft(whole+fraction, "0")
	d.Exponent = exponent - len(fraction)
	d.Digits = strings.TrimRight(digits, "0")
	d.Exponent += len(digits) - len(d.Digits)
	if d.Digits == "" {
		return Decimal{}, nil
	}
	return d, nil
}

func parseExponent(text string) (int, error) {
	digits := strings.TrimLeft(text, "+-")
	if digits == "" || len(text)-len(digits) > 1 || !allDigits(digits) {
		return 0, ErrNotDecimal
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n > maxExponent {
		n = maxExponent
	}
	if text[0] == '-' {
		n = -n
	}
	return n, nil
}

func allDigits(text string) bool {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}

// Units gives the number in units of 10^-precision. It never rounds: it fails
// with ErrTooPrecise or ErrOutOfRange instead (semantics: Amounts).
func (d Decimal) Units(precision int) (int64, error) {
	if d.Digits == "" {
		return 0, nil
	}
	shift := d.Exponent + precision
	if shift < 0 {
		return 0, ErrTooPrecise
	}
	if len(d.Digits)+shift > len("9007199254740991") {
		return 0, ErrOutOfRange
	}
	units, err := strconv.ParseInt(d.Digits+strings.Repeat("0", shift), 10, 64)
	if err != nil || units > MaxUnits {
		return 0, ErrOutOfRange
	}
	if d.Negative {
		units = -units
	}
	return units, nil
}

// Positive says whether the number is greater than zero.
func (d Decimal) Positive() bool { return d.Digits != "" && !d.Negative }

// Compare orders two numbers: -1, 0 or +1.
func (d Decimal) Compare(other Decimal) int {
	exponent := min(d.Exponent, other.Exponent)
	return d.integer(exponent).Cmp(other.integer(exponent))
}

// integer is the number in units of 10^exponent, which must not be above its
// own.
func (d Decimal) integer(exponent int) *big.Int {
	if d.Digits == "" {
		return new(big.Int)
	}
	n, _ := new(big.Int).SetString(d.Digits, 10)
	n.Mul(n, pow10(d.Exponent-exponent))
	if d.Negative {
		n.Neg(n)
	}
	return n
}

// String writes the number the shortest way, without an exponent.
func (d Decimal) String() string {
	switch {
	case d.Digits == "":
		return "0"
	case d.Exponent >= 0:
		return d.sign() + d.Digits + strings.Repeat("0", d.Exponent)
	}
	point := len(d.Digits) + d.Exponent
	if point <= 0 {
		return d.sign() + "0." + strings.Repeat("0", -point) + d.Digits
	}
	return d.sign() + d.Digits[:point] + "." + d.Digits[point:]
}

func (d Decimal) sign() string {
	if d.Negative {
		return "-"
	}
	return ""
}

// ParseUnits reads a decimal number as units of 10^-precision. Errors as
// ParseDecimal and Decimal.Units.
func ParseUnits(text string, precision int) (int64, error) {
	d, err := ParseDecimal(text)
	if err != nil {
		return 0, err
	}
	return d.Units(precision)
}

// FormatUnits writes units of 10^-precision as the shortest JSON number.
func FormatUnits(units int64, precision int) string {
	var text [24]byte // holds any
	return string(AppendUnits(text[:0], units, precision))
}

// AppendUnits is FormatUnits onto the end of dst.
func AppendUnits(dst []byte, units int64, precision int) []byte {
	if precision == 0 || units == 0 {
		return strconv.AppendInt(dst, units, 10)
	}
	magnitude := uint64(units)
	if units < 0 {
		dst = append(dst, '-')
		magnitude = uint64(-units)
	}
	unit := uint64(1)
	for range precision {
		unit *= 10
	}
	dst = strconv.AppendUint(dst, magnitude/unit, 10)
	fraction := magnitude % unit
	if fraction == 0 {
		return dst
	}
	dst = append(dst, '.')
	for unit /= 10; fraction > 0; unit /= 10 {
		dst = append(dst, byte('0'+fraction/unit))
		fraction %= unit
	}
	return dst
}

// Factor is what one of a feature's units is multiplied with to give units of a credit system: Convert, for who has no
// numbers but texts. It is <digits>e<exponent>.
func Factor(featurePrecision int, cost Decimal, creditPrecision int) string {
	return cost.Digits + "e" + strconv.Itoa(cost.Exponent-featurePrecision+creditPrecision)
}

// Convert gives units of a feature in units of a credit system at the given
// cost per whole feature unit (semantics: Amounts). It rounds up: using something
// never costs nothing, and giving back in many small amounts (negative ones)
// never returns more than one large amount took. It fails with ErrOutOfRange.
func Convert(units int64, featurePrecision int, cost Decimal, creditPrecision int) (int64, error) {
	product := cost.integer(cost.Exponent)
	product.Mul(product, big.NewInt(units))
	shift := cost.Exponent - featurePrecision + creditPrecision
	if shift >= 0 {
		product.Mul(product, pow10(shift))
	} else {
		product = quotientRoundedUp(product, pow10(-shift))
	}
	if !product.IsInt64() || product.Int64() > MaxUnits || product.Int64() < -MaxUnits {
		return 0, ErrOutOfRange
	}
	return product.Int64(), nil
}

// quotientRoundedUp is n / by for a positive by. The division leaves out what is
// behind the point, which for a negative n is rounding up already.
func quotientRoundedUp(n, by *big.Int) *big.Int {
	quotient, rest := new(big.Int).QuoRem(n, by, new(big.Int))
	if rest.Sign() > 0 {
		quotient.Add(quotient, big.NewInt(1))
	}
	return quotient
}

func pow10(n int) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil)
}
