package main

import (
	"os"
	"testing"

	"tollgate/internal/proctest"
	"tollgate/internal/servertest"
)

func TestMain(m *testing.M) {
	code := servertest.Main(m)
	proctest.Clean()
	os.Exit(code)
}
