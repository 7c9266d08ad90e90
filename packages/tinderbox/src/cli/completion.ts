/** `tinderbox completion`: scripts for bash, zsh and fish, made of the command tree itself. */
import type { Command } from "commander";
import { TinderboxError } from "../base/errors.ts";

type Node = {
  /** Words from the program's name on, without it: "guest build" */
  readonly path: string;
  readonly commands: readonly { readonly name: string; readonly about: string }[];
  readonly flags: readonly { readonly flag: string; readonly about: string }[];
};

function nodesOf(command: Command, path = ""): readonly Node[] {
  const flags = command.options.flatMap((option) =>
    [option.short, option.long]
      .filter((flag) => flag !== undefined)
      .map((flag) => ({ flag, about: option.description })),
  );
  const node = {
    path,
    commands: command.commands.map((child) => ({ name: child.name(), about: child.description() })),
    flags: [...flags, { flag: "--help", about: "show help" }],
  };
  const below = command.commands.flatMap((child) => nodesOf(child, `${path} ${child.name()}`.trim()));
  return [node, ...below];
}

/** In single quotes for a shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'"'"'`)}'`;
}

function bash(nodes: readonly Node[]): string {
  const cases = nodes.map(({ path, commands, flags }) => {
    const words = [...commands.map(({ name }) => name), ...flags.map(({ flag }) => flag)];
    return `    ${quoted(path)}) words=${quoted(words.join(" "))} ;;`;
  });
  return `# tinderbox completion for bash:  source <(tinderbox completion bash)
_tinderbox() {
  local path= word words=
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case $word in -*) ;; *) case " ${nodes.map(({ path }) => path.replaceAll(" ", "_")).join(" ")} " in
      *" \${path:+\${path}_}$word "*) path=\${path:+\${path}_}$word ;;
    esac ;; esac
  done
  case \${path//_/ } in
${cases.join("\n")}
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _tinderbox tinderbox
`;
}

function zsh(nodes: readonly Node[]): string {
  return `#compdef tinderbox
# tinderbox completion for zsh:  source <(tinderbox completion zsh)
autoload -U +X bashcompinit && bashcompinit
${bash(nodes).split("\n").slice(1).join("\n")}`;
}

function fish(nodes: readonly Node[]): string {
  const lines = ["# tinderbox completion for fish:  tinderbox completion fish | source"];
  for (const { path, commands, flags } of nodes) {
    const condition =
      path === ""
        ? "__fish_use_subcommand"
        : path
            .split(" ")
            .map((word) => `__fish_seen_subcommand_from ${word}`)
            .join("; and ");
    for (const { name, about } of commands)
      lines.push(`complete -c tinderbox -f -n ${quoted(condition)} -a ${name} -d ${quoted(about)}`);
    for (const { flag, about } of flags) {
      const how = flag.startsWith("--") ? `-l ${flag.slice(2)}` : `-s ${flag.slice(1)}`;
      lines.push(`complete -c tinderbox -n ${quoted(condition)} ${how} -d ${quoted(about)}`);
    }
  }
  return `${lines.join("\n")}\n`;
}

/** The script for `shell`. @throws INVALID for another shell */
export function completionScript(program: Command, shell: string): string {
  const nodes = nodesOf(program);
  switch (shell) {
    case "bash":
      return bash(nodes);
    case "zsh":
      return zsh(nodes);
    case "fish":
      return fish(nodes);
    default:
      throw new TinderboxError("INVALID", `shell ${JSON.stringify(shell)}: bash, zsh or fish`);
  }
}
