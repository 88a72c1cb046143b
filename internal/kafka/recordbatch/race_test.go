//go:build race

package recordbatch

func init() { raceEnabled = true }
