package settings

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"tollgate/internal/access"
)

// TLS are the settings of encrypted connections to a server.
type TLS struct {
	TLS     bool   `help:"Encrypt the connections."`
	TLSCA   string `name:"tls-ca" placeholder:"FILE" help:"Certificates of the authorities to trust (PEM); the system's where none is given. These files are read again once they change."`
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"Certificate to show to the server (PEM), for mutual TLS."`
	TLSKey  string `name:"tls-key" placeholder:"FILE" help:"Key of that certificate (PEM)."`
}

// certificates is nil where nothing is to be encrypted. prefix is that of the flags.
func (t TLS) certificates(prefix string, problems *Problems, logger *slog.Logger) *access.Certificates {
	if !t.TLS {
		if t.TLSCA != "" || t.TLSCert != "" || t.TLSKey != "" {
			problems.Add("--%[1]s-tls-ca, --%[1]s-tls-cert and --%[1]s-tls-key need --%[1]s-tls", prefix)
		}
		return nil
	}
	if (t.TLSCert == "") != (t.TLSKey == "") {
		problems.Add("--%[1]s-tls-cert and --%[1]s-tls-key need each other", prefix)
	}
	return readCertificates(prefix, access.Files{CA: t.TLSCA, Cert: t.TLSCert, Key: t.TLSKey}, problems, logger)
}

// readCertificates names each file that is of no use by its flag.
func readCertificates(prefix string, files access.Files, problems *Problems, logger *slog.Logger) *access.Certificates {
	certificates, failures := access.ReadCertificates(files, logger)
	for _, failure := range failures {
		problems.Add("--%s-%v", prefix, failure)
	}
	return certificates
}

// secret is a secret given as it is or in a file, whose last line break does not count.
func secret(flag, value, path string, problems *Problems) string {
	if path == "" {
		return value
	}
	if value != "" {
		problems.Add("give either --%[1]s or --%[1]s-file, not both", flag)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		problems.Add("--%s-file: %v", flag, err)
	}
	return strings.TrimRight(string(text), "\r\n")
}

// checkAddresses notes addresses that are not host:port.
func checkAddresses(flag string, addresses []string, problems *Problems) {
	for _, address := range addresses {
		if !isHostPort(address) {
			problems.Add("--%s: %q must be host:port", flag, address)
		}
	}
}

func isHostPort(address string) bool {
	i := strings.LastIndex(address, ":")
	var port uint16
	if i < 1 {
		return false
	}
	_, err := fmt.Sscanf(address[i+1:], "%d", &port)
	return err == nil && fmt.Sprint(port) == address[i+1:]
}

// CheckAddress notes an address that is not host:port; port 0 is any that is free.
func CheckAddress(flag, address string, problems *Problems) {
	checkAddresses(flag, []string{address}, problems)
}
