package service

// CertKind is a kind of certificate, good or bad in one way.
type CertKind string

// The certificates that a server can show.
const (
	CertGood                CertKind = "good"
	CertExpired             CertKind = "expired"
	CertNotYetValid         CertKind = "not_yet_valid"
	CertWrongName           CertKind = "wrong_name"
	CertUntrusted           CertKind = "untrusted" // self-signed
	CertExpiring            CertKind = "expiring"  // in ExpiringDays
	CertMissingIntermediate CertKind = "missing_intermediate"
	CertExpiredIntermediate CertKind = "expired_intermediate"
)

// CA is the lab's certificate authority, ECDSA P-256, made once per run: a root
// that clients get and an intermediate that signs. It marshals to JSON (with its
// keys) to reach child processes; it is worth nothing outside the lab.
type CA struct {
	RootPEM     []byte `json:"root"`
	RootKeyPEM  []byte `json:"root_key"`
	InterPEM    []byte `json:"inter"`
	InterKeyPEM []byte `json:"inter_key"`
	OldInterPEM []byte `json:"old_inter"` // the intermediate with its time run out, same key
}
