package settings

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
)

// TLS are the settings of encrypted connections to a server.
type TLS struct {
	TLS     bool   `help:"Encrypt the connections."`
	TLSCA   string `name:"tls-ca" placeholder:"FILE" help:"Certificates of the authorities to trust (PEM); the system's where none is given."`
	TLSCert string `name:"tls-cert" placeholder:"FILE" help:"Certificate to show to the server (PEM), for mutual TLS."`
	TLSKey  string `name:"tls-key" placeholder:"FILE" help:"Key of that certificate (PEM)."`
}

// config is nil where nothing is to be encrypted. prefix is that of the flags.
func (t TLS) config(prefix string, problems *Problems) *tls.Config {
	if !t.TLS {
		if t.TLSCA != "" || t.TLSCert != "" || t.TLSKey != "" {
			problems.Add("--%[1]s-tls-ca, --%[1]s-tls-cert and --%[1]s-tls-key need --%[1]s-tls", prefix)
		}
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.TLSCA != "" {
		config.RootCAs = x509.NewCertPool()
		pem, err := os.ReadFile(t.TLSCA)
		switch {
		case err != nil:
			problems.Add("--%s-tls-ca: %v", prefix, err)
		case !config.RootCAs.AppendCertsFromPEM(pem):
			problems.Add("--%s-tls-ca: %s holds no certificate in PEM format", prefix, t.TLSCA)
		}
	}
	if (t.TLSCert == "") != (t.TLSKey == "") {
		problems.Add("--%[1]s-tls-cert and --%[1]s-tls-key need each other", prefix)
	} else if t.TLSCert != "" {
		pair, err := tls.LoadX509KeyPair(t.TLSCert, t.TLSKey)
		if err != nil {
			problems.Add("--%s-tls-cert: %v", prefix, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
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
