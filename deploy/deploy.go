// Package deploy holds what comes with the programs: the example catalogue.
package deploy

import _ "embed"

// Catalog is the example catalogue (catalog.yaml), which `worker dev` serves.
//
//go:embed catalog.yaml
var Catalog []byte
