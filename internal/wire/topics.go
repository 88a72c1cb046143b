package wire

// Topics are the names of the topics.
type Topics struct {
	Checks         string
	CheckResults   string
	UsageEvents    string
	Commands       string
	CommandResults string
	DeadLetters    string
}

// All lists the names.
func (t Topics) All() []string {
	return []string{t.Checks, t.CheckResults, t.UsageEvents, t.Commands, t.CommandResults, t.DeadLetters}
}
