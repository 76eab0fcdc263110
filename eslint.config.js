import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["node_modules/", ".local/", "**/*.{js,cjs}"] },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      complexity: ["error", 15],
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/consistent-type-assertions": ["error", { assertionStyle: "never" }],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
    },
  },
  {
    // The program, which pulumi runs, knows nothing of the tools that people and workflows run.
    files: ["index.ts", "outputs.ts", "{authentik,config,policy,program,providers}/**/*.ts"],
    rules: {
      "no-restricted-imports": [
        "error",
        {
          patterns: [{ regex: "/(?:tools|test|bench)/", message: "The program imports no tool." }],
        },
      ],
    },
  },
);
