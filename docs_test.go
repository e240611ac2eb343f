package fathom_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)
	fenced  = regexp.MustCompile("(?s)```.*?```")
	inCode  = regexp.MustCompile("`(internal|probe|sample|testdata|docs|tools|cmd)/[A-Za-z0-9_./-]*[A-Za-z0-9_]`")
	scheme  = regexp.MustCompile(`^[a-z]+:`)
	pattern = strings.NewReplacer("<kind>", "*", "<area>", "*", "<cause>", "*", "<name>", "*")
)

// What the documents name exists: links to other files, and paths in code quotes.
func TestDocumentsNameWhatExists(t *testing.T) {
	var docs []string
	for _, glob := range []string{"*.md", "docs/*.md", "docs/decisions/*.md"} {
		files, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, files...)
	}
	if len(docs) < 10 {
		t.Fatalf("found only %q", docs)
	}
	for _, doc := range docs {
		if doc == "THIRD_PARTY_NOTICES.md" {
			continue // other people's texts
		}
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		text := fenced.ReplaceAllString(string(b), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if scheme.MatchString(m[1]) {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", doc, m[1], err)
			}
		}
		for _, quoted := range inCode.FindAllString(text, -1) {
			p := pattern.Replace(strings.Trim(quoted, "`"))
			if found, err := filepath.Glob(p); err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which does not exist", doc, p)
			}
		}
	}
}
