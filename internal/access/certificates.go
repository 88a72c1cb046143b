package access

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Files are the files of encrypted connections, in PEM format. Each may be "".
type Files struct {
	CA   string // authorities to trust, the system's where it is ""
	Cert string // certificate to show to the server
	Key  string // of that certificate
}

// FileError says which file is of no use. Flag is the end of the flag that names it.
type FileError struct {
	Flag string
	Err  error
}

func (e FileError) Error() string { return e.Flag + ": " + e.Err.Error() }

// Unwrap is part of package errors.
func (e FileError) Unwrap() error { return e.Err }

// contents are what the files have, in the order of the fields of Files.
type contents [3][]byte

func (c contents) equal(other contents) bool {
	for i := range c {
		if !bytes.Equal(c[i], other[i]) {
			return false
		}
	}
	return true
}

// read reads the files. The text of an error stands for what cannot be read, so that
// another error is a change.
func (f Files) read() (texts contents, failures []FileError) {
	for i, file := range []struct{ flag, path string }{{"tls-ca", f.CA}, {"tls-cert", f.Cert}, {"tls-key", f.Key}} {
		if file.path == "" {
			continue
		}
		text, err := os.ReadFile(file.path)
		if err != nil {
			failures = append(failures, FileError{file.flag, err})
			text = []byte(err.Error())
		}
		texts[i] = text
	}
	return texts, failures
}

// parse makes settings of TLS of what the files have.
func (f Files) parse(texts contents) (*tls.Config, []FileError) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	var failures []FileError
	if f.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(texts[0]) {
			failures = append(failures, FileError{"tls-ca", fmt.Errorf("%s holds no certificate in PEM format", f.CA)})
		}
	}
	if f.Cert != "" {
		pair, err := tls.X509KeyPair(texts[1], texts[2])
		if err != nil {
			failures = append(failures, FileError{"tls-cert", fmt.Errorf("%s and %s: %w", f.Cert, f.Key, err)})
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, failures
}

// lookEvery is how often the files are looked at, at the most, while connections are made.
const lookEvery = 2 * time.Second

// Certificates are the certificates and the key of encrypted connections. They are read
// again when a connection is made and their files have changed. What cannot be used
// leaves those before in force: certificate and key are two files, which are seldom
// replaced in one moment.
type Certificates struct {
	files  Files
	logger *slog.Logger
	now    func() time.Time

	mutex  sync.Mutex
	looked time.Time
	tried  contents    // of the files when they were last looked at
	config *tls.Config // of the last ones that could be used
}

// ReadCertificates reads the files. Changes of theirs, whether they can be used or not, go to
// the log.
func ReadCertificates(files Files, logger *slog.Logger) (*Certificates, []FileError) {
	c := &Certificates{files: files, logger: logger, now: time.Now}
	texts, failures := files.read()
	var config *tls.Config
	if len(failures) == 0 {
		config, failures = files.parse(texts)
	}
	if len(failures) > 0 {
		return nil, failures
	}
	c.looked, c.tried, c.config = c.now(), texts, config
	return c, nil
}

// Config makes the settings of one connection; they are the caller's.
func (c *Certificates) Config() *tls.Config {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if now := c.now(); now.Sub(c.looked) >= lookEvery {
		c.looked = now
		c.refresh()
	}
	return c.config.Clone()
}

func (c *Certificates) refresh() {
	texts, failures := c.files.read()
	if texts.equal(c.tried) {
		return
	}
	c.tried = texts
	var config *tls.Config
	if len(failures) == 0 {
		config, failures = c.files.parse(texts)
	}
	if len(failures) > 0 {
		c.logger.Warn("the TLS files have changed and cannot be used; those before stay in force", "error", failures)
		return
	}
	c.config = config
	c.logger.Info("the TLS files have changed; new connections go by them", "ca", c.files.CA, "cert", c.files.Cert, "key", c.files.Key)
}
