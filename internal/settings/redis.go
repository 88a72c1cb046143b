package settings

import (
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"tollgate/internal/access"
	"tollgate/internal/store"
)

// Redis are the settings of the connection to Redis.
type Redis struct {
	Addrs                []string `placeholder:"HOST:PORT" help:"One address: a standalone server. Several: a Cluster; with --redis-master: its Sentinels."`
	Cluster              bool     `help:"One address, too, is a Cluster's (a configuration endpoint)."`
	Master               string   `placeholder:"NAME" help:"Name of the master that Sentinels watch."`
	Username             string   `placeholder:"NAME" help:"ACL user."`
	Password             string   `placeholder:"SECRET" help:"Its password."`
	PasswordFile         string   `placeholder:"FILE" help:"File with its password."`
	SentinelUsername     string   `placeholder:"NAME" help:"User of the Sentinels."`
	SentinelPassword     string   `placeholder:"SECRET" help:"Its password."`
	SentinelPasswordFile string   `placeholder:"FILE" help:"File with its password."`
	DB                   int      `name:"db" default:"0" help:"Database number (not with a Cluster)."`
	TLS                  `embed:""`
	Prefix               string        `default:"tollgate:" help:"Begins every key."`
	WaitReplicas         int           `default:"0" help:"Replicas that must have a deduction before its result is published."`
	WaitTimeout          time.Duration `default:"2s" help:"How long to wait for them before trying again."`
}

// redisReadTimeout is how long a pipeline may take before Redis counts as gone.
const redisReadTimeout = 5 * time.Second

// redisClientName names us in CLIENT LIST.
const redisClientName = "tollgate"

func (r *Redis) isCluster() bool { return r.Master == "" && (r.Cluster || len(r.Addrs) > 1) }

// Check notes what is wrong.
func (r *Redis) Check(problems *Problems) {
	if len(r.Addrs) == 0 {
		problems.Missing("redis-addrs", "host:port of a Redis, or of several, with commas")
	}
	checkAddresses("redis-addrs", r.Addrs, problems)
	if r.Cluster && r.Master != "" {
		problems.Add("--redis-cluster and --redis-master exclude each other")
	}
	if r.isCluster() && r.DB != 0 {
		problems.Add("--redis-db: a Redis Cluster has database 0 only")
	}
	if r.isCluster() && r.WaitReplicas > 0 {
		problems.Add("--redis-wait-replicas works with a standalone server or with Sentinel, not with a Cluster")
	}
	if r.WaitReplicas < 0 {
		problems.Add("--redis-wait-replicas must be 0 or more")
	}
	if r.WaitTimeout < time.Millisecond {
		problems.Add("--redis-wait-timeout must be 1ms or more")
	}
	if r.DB < 0 {
		problems.Add("--redis-db must be 0 or more")
	}
	r.options(problems, nil)
	if _, err := store.New(nil, r.StoreOptions()); err != nil {
		problems.Add("--redis-prefix: %v", err)
	}
}

func (r *Redis) options(problems *Problems, logger *slog.Logger) *redis.UniversalOptions {
	options := &redis.UniversalOptions{
		Addrs: r.Addrs, MasterName: r.Master, IsClusterMode: r.isCluster(), DB: r.DB, ClientName: redisClientName,
		Username: r.Username, Password: secret("redis-password", r.Password, r.PasswordFile, problems),
		SentinelUsername: r.SentinelUsername,
		SentinelPassword: secret("redis-sentinel-password", r.SentinelPassword, r.SentinelPasswordFile, problems),
		DialTimeout:      dialTimeout,
		ReadTimeout:      redisReadTimeout,
		// A shard of a Cluster that does not answer is waited for less long than the read timeout (store.Run).
		ContextTimeoutEnabled: true,
		MaxRetries:            -1, // the engine tries again, and knows how much of a batch is left
	}
	if certificates := r.certificates("redis", problems, logger); certificates != nil {
		dialer := &access.Dialer{Timeout: dialTimeout, Certificates: certificates}
		options.Dialer = dialer.DialContext
		// The dialer goes before it. It is here for what go-redis may decide by whether there is one.
		options.TLSConfig = certificates.Config()
	}
	return options
}

// Client makes the client of settings that were checked. Nothing is connected yet.
func (r *Redis) Client(logger *slog.Logger) redis.UniversalClient {
	var checked Problems
	return redis.NewUniversalClient(r.options(&checked, logger))
}

// StoreOptions are the settings of the store on it.
func (r *Redis) StoreOptions() store.Options {
	return store.Options{Prefix: r.Prefix, WaitReplicas: r.WaitReplicas, WaitTimeout: r.WaitTimeout}
}
