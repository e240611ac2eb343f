// Package config turns what a person or a file gives into checked structs, or
// says where it is wrong and what was probably meant: targets as typed,
// targets.yaml, and evidence files. It measures nothing and decides nothing.
package config
