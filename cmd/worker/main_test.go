package main

import (
	"os"
	"testing"

	"tollgate/internal/proctest"
)

func TestMain(m *testing.M) {
	os.Exit(proctest.Main(m))
}
