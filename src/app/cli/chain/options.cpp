// `tidemark chain` on the command line.
#include <cstdlib>

#include "app/cli/chain/commands.hpp"
#include "app/cli/parse.hpp"

namespace tidemark::cli {
namespace {

constexpr const char* layers_help = "layers by number (1 is right below the top, TOP[1] is the same), by node, or by file";

// What all verbs take.  A chain is one of files, unless a daemon is named here or in the environment.
struct Given {
  ChainName chain;
  std::string socket;
};

std::shared_ptr<Given> add_verb(CLI::App* command) {
  auto given = std::make_shared<Given>();
  if (const char* set = std::getenv("TIDEMARK_QMP")) given->socket = set;
  command->add_option("TOP", given->chain.top, "an image file; with a daemon, the node at the top of the chain")->required()
      ->check(not_empty());
  command->add_option("--qmp", given->socket, "a daemon's QMP socket, or TIDEMARK_QMP in the environment; without, files are looked at")
      ->type_name("SOCKET")->check(not_empty());
  return given;
}

ChainName chain_of(const Given& given, Options& options) {
  ChainName chain = given.chain;
  chain.live = !given.socket.empty();
  if (chain.live) options.qmp_socket = given.socket;
  return chain;
}

void add_remove(CLI::App* group, Options& options, const char* verb, const char* help, ChainRemoveOptions::Way way) {
  auto* command = group->add_subcommand(verb, help);
  auto given = add_verb(command);
  auto chosen = std::make_shared<ChainRemoveOptions>();
  command->add_option("LAYER", chosen->layers, layers_help)->required()->check(not_empty());
  command->add_option("--speed", chosen->speed, "at most so many bytes a second, with a daemon")->transform(size_check());
  if (way == ChainRemoveOptions::Way::commit)
    command->add_option("--preserve-removed", chosen->preserve_removed, "have what reads from the base go on so, with a daemon")
        ->check(CLI::IsMember({"off", "on", "full"}))->capture_default_str();
  command->callback([=, &options] {
    chosen->way = way;
    chosen->chain = chain_of(*given, options);
    options.command = [=](const Context& context) { return chain_remove(context, *chosen); };
  });
}

void add_copy(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("copy", "copy a disk to another file, device or server; a daemon's can go over to the copy");
  auto given = add_verb(command);
  auto chosen = std::make_shared<ChainCopyOptions>();
  command->add_option("TARGET", chosen->target, "the file to make, which appears when it is whole; or an nbd: URI")->required()
      ->check(not_empty());
  command->add_flag("--shallow", chosen->shallow, "what the top holds alone; the copy stands on what the disk stands on");
  command->add_flag("--reuse", chosen->reuse, "the target is there: an image, or a device; what it holds is overwritten");
  command->add_option("--format", chosen->format, "the target's (default: the disk's)")->check(CLI::IsMember({"raw", "qcow2"}));
  auto* pivot = command->add_flag("--pivot", chosen->pivot, "a daemon's disk goes over to the copy when it is equal; its guest goes on");
  command->add_flag("--stay", chosen->stay, "keep the copy equal when it is, until somebody ends the job")->excludes(pivot);
  command->add_option("--speed", chosen->speed, "at most so many bytes a second")->transform(size_check());
  command->callback([=, &options] {
    chosen->chain = chain_of(*given, options);
    options.command = [=](const Context& context) { return chain_copy(context, *chosen); };
  });
}

void add_rebase(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("rebase", "let a layer stand on another one further down, or on another file; it reads as before");
  auto given = add_verb(command);
  auto chosen = std::make_shared<ChainRebaseOptions>();
  command->add_option("NEW-BASE", chosen->base, "a layer below, as others take it, or a file; '' is nothing")->required();
  command->add_option("--layer", chosen->layer, "the layer that is to stand on it (default: the top)")->type_name("LAYER")
      ->check(not_empty());
  command->add_option("--format", chosen->format, "of a file that is no layer (default: by name and content)")
      ->check(CLI::IsMember({"raw", "qcow2"}));
  command->add_flag("--unsafe", chosen->unsafe, "change the name in the header alone: what it stands on now reads the same");
  command->add_option("--speed", chosen->speed, "at most so many bytes a second, with a daemon")->transform(size_check());
  command->callback([=, &options] {
    chosen->chain = chain_of(*given, options);
    options.command = [=](const Context& context) { return chain_rebase(context, *chosen); };
  });
}

}  // namespace

void add_chain(CLI::App& app, Options& options) {
  auto* group = app.add_subcommand("chain", "backing chains of image files, or of a running daemon's nodes")->require_subcommand(1);
  auto* show = group->add_subcommand("show", "the layers, what they hold, and what moves when one of them is taken out");
  auto shown = add_verb(show);
  show->callback([=, &options] {
    const ChainShowOptions chosen{chain_of(*shown, options)};
    options.command = [=](const Context& context) { return chain_show(context, chosen); };
  });
  add_remove(group, options, "remove", "take layers out so that least is moved, as plan says", ChainRemoveOptions::Way::cheapest);
  add_remove(group, options, "pull", "take layers out by pulling what shows of them into those above", ChainRemoveOptions::Way::pull);
  add_remove(group, options, "commit", "take layers out by committing all they hold to those below", ChainRemoveOptions::Way::commit);
  add_copy(group, options);
  add_rebase(group, options);
  auto* plan = group->add_subcommand("plan", "how to take layers out so that least is moved; nothing is changed");
  auto planned = add_verb(plan);
  auto layers = std::make_shared<std::vector<std::string>>();
  plan->add_option("LAYER", *layers, layers_help)->required()->check(not_empty());
  plan->callback([=, &options] {
    const ChainPlanOptions chosen{chain_of(*planned, options), *layers};
    options.command = [=](const Context& context) { return chain_plan(context, chosen); };
  });
}

}  // namespace tidemark::cli
