/** `npm run bench`: measures speed, as ratios within one run. */
import { Command } from "commander";
import { benchMigrate } from "./migrate.ts";
import { benchPreview } from "./preview.ts";

const program = new Command("npm run bench --")
  .description("Compares the speed of this project with alternatives, in one run.")
  .addHelpText("after", "\nExamples:\n  npm run bench\n  npm run bench -- migrate");
program
  .command("preview", { isDefault: true })
  .description("a preview of the dev stack, compared with an empty and a naive program")
  .option("--json", "print JSON", false)
  .action(benchPreview);
program
  .command("migrate")
  .description(
    "migrate, compared with aws s3 sync and rclone if they are on PATH; takes some minutes and, " +
      "with both, 13 GB of TMPDIR",
  )
  .option("--rounds <number>", "how often each tool runs", Number, 5)
  .option("--only <column>", "small, nothing, large or listing", "")
  .option("--no-keep-alive", "a server that closes the connection after each answer")
  .option("--json", "print JSON", false)
  .action(benchMigrate);
await program.parseAsync();
