package settings

import (
	"fmt"
	"os"

	"github.com/alecthomas/kong"
	mangokong "github.com/alecthomas/mango-kong"
)

// Tools are what both programs have beside their commands.
type Tools struct {
	Man        mangokong.ManFlag `group:"General" help:"Print the manual page: --man | man -l -"`
	Completion completionCommand `cmd:"" help:"Print what has a shell complete commands and flags."`
}

type completionCommand struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help shows how to use it.
func (c *completionCommand) Help() string {
	return `bash:  source <(worker completion bash)      in ~/.bashrc
zsh:   source <(worker completion zsh)       in ~/.zshrc
fish:  worker completion fish > ~/.config/fish/completions/worker.fish

The same for producer.`
}

// completions ask the program itself (posener/complete's way: COMP_LINE); where it knows
// nothing, files are meant.
var completions = map[string]string{
	"bash": "complete -o default -C %[2]q %[1]s\n",
	"zsh":  "autoload -U +X bashcompinit && bashcompinit\ncomplete -o default -C %[2]q %[1]s\n",
	"fish": `function __complete_%[1]s
    set -lx COMP_LINE (commandline -cp)
    test -z (commandline -ct)
    and set COMP_LINE "$COMP_LINE "
    %[2]q
end
complete -f -c %[1]s -a "(__complete_%[1]s)"
`,
}

func (c *completionCommand) Run(program *kong.Kong) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Printf(completions[c.Shell], program.Model.Name, path)
	return nil
}
