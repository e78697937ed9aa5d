// `tidemark image` on the command line.  Letters are qemu-img's.
#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/parse.hpp"

namespace tidemark::cli {
namespace {

template <class Chosen>
using Run = Task<Exit> (*)(const Context&, Chosen);

template <class Chosen>
void runs(CLI::App* command, Options& options, std::shared_ptr<Chosen> chosen, Run<Chosen> run) {
  command->callback([=, &options] {
    options.command = [=](const Context& context) { return run(context, *chosen); };
  });
}

CLI::Option* add_format(CLI::App* command, std::string& to, const char* what = "its format (default: by name and content)") {
  return command->add_option("--format,-f", to, what)->check(CLI::IsMember({"raw", "qcow2"}));
}

void add_image_name(CLI::App* command, ImageName& to) {
  command->add_option("FILE", to.name, "an image, a block device, an NBD URI, or json:{...} as blockdev-add takes it")
      ->required()->check(not_empty());
  add_format(command, to.format);
}

void add_force_share(CLI::App* command, bool& to) {
  command->add_flag("--force-share,-U", to, "read although another program may be writing");
}

void add_snapshot_name(CLI::App* command, const char* names, std::string& to, const char* what = "as it was then: an id, a name, or "
                                                                                         "snapshot.id=ID,snapshot.name=NAME") {
  command->add_option(names, to, what)->type_name("SNAPSHOT")->check(not_empty());
}

void add_backing(CLI::App* command, std::string& name, std::string& format, const char* what, const char* names = "--backing,-b") {
  command->add_option(names, name, what)->type_name("FILE");
  command->add_option("--backing-format,-F", format, "the format of that file")->check(CLI::IsMember({"raw", "qcow2"}));
}

void add_format_options(CLI::App* command, std::string& to) {
  command->add_option("--options,-o", to, "of the format, as KEY=VALUE,...")->type_name("OPTIONS");
}

void add_info(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("info", "what an image says of itself");
  auto chosen = std::make_shared<ImageInfoOptions>();
  add_image_name(command, chosen->image);
  command->add_flag("--backing-chain", chosen->backing_chain, "and of all images below it");
  add_force_share(command, chosen->force_share);
  runs(command, options, chosen, image_info);
}

void add_create(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("create", "make an empty image");
  auto chosen = std::make_shared<ImageCreateOptions>();
  auto size = std::make_shared<std::uint64_t>(0);
  command->add_option("FILE", chosen->file, "its name; a file that is there is replaced")->required()->check(not_empty());
  auto* sized = command->add_option("SIZE", *size, "of the disk (default: that of the backing file)")->transform(size_check());
  add_format(command, chosen->format, "its format (default: raw)");
  add_format_options(command, chosen->format_options);
  add_backing(command, chosen->backing, chosen->backing_format, "the image below it");
  command->add_flag("--unchecked,-u", chosen->backing_unchecked, "do not look for the backing file; SIZE is needed");
  command->callback([=, &options] {
    if (sized->count() != 0) chosen->size = *size;
    options.command = [=](const Context& context) { return image_create(context, *chosen); };
  });
}

void add_check(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("check", "look for errors in an image's tables, and repair them");
  auto chosen = std::make_shared<ImageCheckOptions>();
  add_image_name(command, chosen->image);
  command->add_option("--repair,-r", chosen->repair, "leaks: give back clusters that nothing uses; all: errors, too")
      ->check(CLI::IsMember({"leaks", "all"}));
  add_force_share(command, chosen->force_share);
  command->footer("Exit codes: 0 nothing is wrong; 1 failed; 2 errors are left, or wrong usage; 3 only leaks are; 63 nothing to check in "
                  "this format; 130 interrupted.");
  runs(command, options, chosen, image_check);
}

void add_map(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("map", "where the bytes of a disk lie");
  auto chosen = std::make_shared<ImageMapOptions>();
  auto length = std::make_shared<std::uint64_t>(0);
  add_image_name(command, chosen->image);
  command->add_option("--start-offset,-s", chosen->start, "where to begin")->transform(size_check());
  add_snapshot_name(command, "--snapshot", chosen->image.snapshot);
  auto* limited = command->add_option("--max-length,-l", *length, "how far to go")->transform(size_check());
  add_force_share(command, chosen->force_share);
  command->callback([=, &options] {
    if (limited->count() != 0) chosen->length = *length;
    options.command = [=](const Context& context) { return image_map(context, *chosen); };
  });
}

void add_compare(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("compare", "whether two disks read alike");
  auto chosen = std::make_shared<ImageCompareOptions>();
  command->add_option("FIRST", chosen->first.name, "an image")->required()->check(not_empty());
  command->add_option("SECOND", chosen->second.name, "another one")->required()->check(not_empty());
  add_format(command, chosen->first.format, "the first one's format (default: by name and content)");
  command->add_option("--second-format,-F", chosen->second.format, "the other's")->check(CLI::IsMember({"raw", "qcow2"}));
  add_snapshot_name(command, "--snapshot", chosen->first.snapshot, "the first one as it was then: an id or a name");
  add_snapshot_name(command, "--second-snapshot", chosen->second.snapshot, "the other as it was then");
  command->add_flag("--strict,-s", chosen->strict, "sizes, and what is allocated, have to be alike, too");
  add_force_share(command, chosen->force_share);
  command->footer("Exit codes: 0 they read alike; 1 they do not; 2 that could not be found out; 130 interrupted.");
  runs(command, options, chosen, image_compare);
}

void add_target_format(CLI::App* command, std::string& to) {
  command->add_option("--target-format,-O", to, "the new image's format (default: raw)")->check(CLI::IsMember({"raw", "qcow2"}));
}

void add_convert(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("convert", "copy a disk into another image");
  auto chosen = std::make_shared<ImageConvertOptions>();
  auto files = std::make_shared<std::vector<std::string>>();
  command->add_option("FILE", *files, "images, one disk after the other, and last the target, which is made or replaced")
      ->required()->expected(2, -1)->check(not_empty());
  add_format(command, chosen->source_format, "the sources' format (default: by name and content)");
  add_snapshot_name(command, "--snapshot,-l", chosen->snapshot);
  add_target_format(command, chosen->target_format);
  add_format_options(command, chosen->format_options);
  add_backing(command, chosen->backing, chosen->backing_format, "an image below the source that the target will stand on, too",
              "--backing,-b,-B");
  command->add_flag("--compress,-c", chosen->compress, "compress");
  command->add_flag("--existing,-n", chosen->target_exists, "write into an image that is there, in place");
  command->add_flag("--target-is-zero", chosen->target_is_zero, "the target reads as zeroes already");
  command->add_option("--sparse,-S", chosen->sparse, "so many zeroes become a hole; 0: none do (default: 4K)")->transform(size_check());
  command->add_option("--workers,-m", chosen->workers, "requests under way at a time (default: 16)")->type_name("NUMBER")
      ->check(CLI::Range(1, 64).description(""));
  command->add_option("--speed,-r", chosen->speed, "at most so many bytes a second")->transform(size_check());
  auto* bitmaps = command->add_flag("--bitmaps", chosen->bitmaps, "the bitmaps, too, from qcow2 to qcow2");
  command->add_flag("--skip-broken-bitmaps", chosen->skip_broken_bitmaps, "but for inconsistent ones")->needs(bitmaps);
  command->add_flag("--direct", chosen->direct, "past the page cache");
  add_force_share(command, chosen->force_share);
  command->callback([=, &options] {
    chosen->target = files->back();
    chosen->sources.assign(files->begin(), files->end() - 1);
    options.command = [=](const Context& context) { return image_convert(context, *chosen); };
  });
}

void add_measure(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("measure", "how large a new image's file will be");
  auto chosen = std::make_shared<ImageMeasureOptions>();
  auto size = std::make_shared<std::uint64_t>(0);
  command->add_option("FILE", chosen->image.name, "what it will be converted from")->check(not_empty());
  add_format(command, chosen->image.format);
  add_snapshot_name(command, "--snapshot,-l", chosen->image.snapshot);
  auto* sized = command->add_option("--size", *size, "of an empty disk, instead of FILE")->transform(size_check());
  add_target_format(command, chosen->target_format);
  add_format_options(command, chosen->format_options);
  add_force_share(command, chosen->force_share);
  command->callback([=, &options] {
    if (sized->count() != 0) chosen->size = *size;
    options.command = [=](const Context& context) { return image_measure(context, *chosen); };
  });
}

void add_resize(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("resize", "make a disk larger or smaller");
  auto chosen = std::make_shared<ImageResizeOptions>();
  add_image_name(command, chosen->image);
  command->add_option("SIZE", chosen->size, "the new size, or +SIZE or -SIZE for a change")->required()->check(not_empty());
  command->add_option("--preallocation", chosen->preallocation, "space for what it grows by (default: off)")
      ->check(CLI::IsMember({"off", "metadata", "falloc", "full"}));
  command->add_flag("--shrink", chosen->shrink, "what lies behind the new end may be lost");
  runs(command, options, chosen, image_resize);
}

void add_rebase(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("rebase", "let an image stand on another file, its content as it was");
  auto chosen = std::make_shared<ImageRebaseOptions>();
  add_image_name(command, chosen->image);
  add_backing(command, chosen->backing, chosen->backing_format, "the file; an empty name: on none any more");
  command->get_option("--backing")->required();
  command->add_flag("--unsafe,-u", chosen->unsafe, "change the name alone: for a file that was moved and has the same content");
  add_force_share(command, chosen->force_share);
  runs(command, options, chosen, image_rebase);
}

void add_commit(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("commit", "write what an image has into one below it");
  auto chosen = std::make_shared<ImageCommitOptions>();
  add_image_name(command, chosen->image);
  command->add_option("--base,-b", chosen->base, "the image to write to (default: the one right below)")->type_name("FILE");
  command->add_flag("--keep,-d", chosen->keep, "do not empty the image afterwards");
  runs(command, options, chosen, image_commit);
}

void add_amend(CLI::App* group, Options& options) {
  auto* command = group->add_subcommand("amend", "change the options of a qcow2 image that exists");
  auto chosen = std::make_shared<ImageAmendOptions>();
  add_image_name(command, chosen->image);
  add_format_options(command, chosen->format_options);
  command->get_option("--options")->required();
  runs(command, options, chosen, image_amend);
}

void add_snapshot_verb(CLI::App* group, Options& options) {
  using Action = ImageSnapshotOptions::Action;
  auto* command = group->add_subcommand("snapshot", "the internal snapshots of a qcow2 image");
  auto chosen = std::make_shared<ImageSnapshotOptions>();
  add_image_name(command, chosen->image);
  std::vector<CLI::Option*> actions;
  auto list = [=] { chosen->action = Action::list; };
  actions.push_back(command->add_flag_callback("--list,-l", list, "what there are; so it does when nothing else is asked for"));
  auto action = [&](const char* names, Action which, const char* what) {
    auto take = [=](const std::string& name) {
      chosen->action = which;
      chosen->name = name;
    };
    actions.push_back(command->add_option_function<std::string>(names, take, what)->type_name("SNAPSHOT")->check(not_empty()));
  };
  action("--create,-c", Action::create, "keep the disk as it is now, under this name");
  action("--apply,-a", Action::apply, "the disk becomes what it was: an id or a name");
  action("--delete,-d", Action::remove, "forget one: an id or a name");
  for (std::size_t i = 0; i < actions.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) actions[i]->excludes(actions[j]);
  add_force_share(command, chosen->force_share);
  runs(command, options, chosen, image_snapshot);
}

void add_bitmap_verb(CLI::App* group, Options& options) {
  using Action = ImageBitmapOptions::Action;
  auto* command = group->add_subcommand("bitmap", "the bitmaps that a qcow2 image holds");
  auto chosen = std::make_shared<ImageBitmapOptions>();
  add_image_name(command, chosen->image);
  command->add_option("BITMAP", chosen->name, "its name")->required()->check(not_empty());
  auto step = [&](const char* flag, Action action, const char* what) {
    command->add_flag_callback(flag, [=] { chosen->steps.push_back({action, {}}); }, what)->trigger_on_parse();
  };
  step("--add", Action::add, "make it; it records from the next time that the image is opened");
  step("--remove", Action::remove, "forget it, be it inconsistent, too");
  step("--clear", Action::clear, "mark everything clean");
  step("--enable", Action::enable, "it records");
  step("--disable", Action::disable, "it does not");
  auto merge = [=](const std::string& source) { chosen->steps.push_back({Action::merge, source}); };
  command->add_option_function<std::string>("--merge", merge, "add another bitmap's bits")->trigger_on_parse()->type_name("NAME");
  step("--rebuild", Action::rebuild, "an inconsistent one becomes consistent, everything marked dirty");
  command->add_option("--granularity,-g", chosen->granularity, "of --add: bytes that a bit stands for")->transform(size_check());
  command->add_option("--source-file,-b", chosen->source_image.name, "of --merge: the image with the other bitmap")->type_name("FILE");
  command->add_option("--source-format,-F", chosen->source_image.format, "that image's format")->check(CLI::IsMember({"qcow2"}));
  runs(command, options, chosen, image_bitmap);
}

}  // namespace

void add_image(CLI::App& app, Options& options) {
  app.get_formatter()->column_width(40);                 // its options have long names
  auto* group = app.add_subcommand("image", "work on disk images that no program has open")->require_subcommand(1);
  auto output = [&options](const std::string& form) { options.json = form == "json"; };
  group->add_option_function<std::string>("--output", output, "human, or json: as --json does")->check(CLI::IsMember({"human", "json"}));
  group->add_flag("--progress,-p", options.progress, "a progress bar although standard error is no terminal");
  add_info(group, options);
  add_create(group, options);
  add_check(group, options);
  add_map(group, options);
  add_compare(group, options);
  add_convert(group, options);
  add_measure(group, options);
  add_resize(group, options);
  add_rebase(group, options);
  add_commit(group, options);
  add_amend(group, options);
  add_snapshot_verb(group, options);
  add_bitmap_verb(group, options);
}

}  // namespace tidemark::cli
