// Certificates makes what TLS needs for one run of a control plane on this machine, so that no openssl is
// needed. It is called by tests/kubernetes/support_processes.py.
//
//	certificates authority DIR               DIR/ca.crt, DIR/ca.key, DIR/service-accounts.key
//	certificates server    DIR NAME          DIR/NAME.crt, DIR/NAME.key, for 127.0.0.1 and localhost
//	certificates client    DIR NAME USER [GROUP ...]   DIR/NAME.crt, DIR/NAME.key, as Kubernetes reads users
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const validFor = 30 * 24 * time.Hour

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "certificates:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "authority":
		return authority(args[1])
	case len(args) == 3 && args[0] == "server":
		return signed(args[1], args[2], &x509.Certificate{
			Subject:     pkix.Name{CommonName: args[2]},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames:    []string{"localhost"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		})
	case len(args) >= 4 && args[0] == "client":
		return signed(args[1], args[2], &x509.Certificate{
			Subject:     pkix.Name{CommonName: args[3], Organization: args[4:]},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
	}
	return errors.New("usage: authority DIR | server DIR NAME | client DIR NAME USER [GROUP ...]")
}

// authority makes the key pair that signs everything else, and one that signs service accounts' tokens.
func authority(directory string) error {
	key, err := newKey(filepath.Join(directory, "ca.key"))
	if err != nil {
		return err
	}
	if _, err := newKey(filepath.Join(directory, "service-accounts.key")); err != nil {
		return err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "everynode test authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	return sign(filepath.Join(directory, "ca.crt"), template, template, key, key)
}

// signed makes a key pair with a certificate of the authority in the same directory.
func signed(directory, name string, template *x509.Certificate) error {
	caKey, err := readKey(filepath.Join(directory, "ca.key"))
	if err != nil {
		return err
	}
	caBytes, err := readBlock(filepath.Join(directory, "ca.crt"))
	if err != nil {
		return err
	}
	ca, err := x509.ParseCertificate(caBytes)
	if err != nil {
		return err
	}
	key, err := newKey(filepath.Join(directory, name+".key"))
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return sign(filepath.Join(directory, name+".crt"), template, ca, key, caKey)
}

func sign(path string, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template.SerialNumber = serial
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = time.Now().Add(validFor)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return err
	}
	return writeBlock(path, "CERTIFICATE", der)
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeBlock(path, "EC PRIVATE KEY", der)
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	der, err := readBlock(path)
	if err != nil {
		return nil, err
	}
	return x509.ParseECPrivateKey(der)
}

func readBlock(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%s is not in PEM", path)
	}
	return block.Bytes, nil
}

func writeBlock(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
