package main

import (
	"slices"
	"testing"
)

func TestKinds(t *testing.T) {
	bsd := "Redistribution and use in source and binary\n   forms, with or without modification"
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"apache", "Apache License\n Version 2.0, January 2004", []string{"Apache-2.0"}},
		{"bsd with the third clause", bsd + " … Neither the name of Google", []string{"BSD-3-Clause"}},
		{"bsd without it", bsd, []string{"BSD-2-Clause"}},
		{"two in one file", "Permission is hereby granted, free of charge … Apache License Version 2.0", []string{"MIT", "Apache-2.0"}},
		{"a notice", "Copyright 2014 The Authors", nil},
		{"something we must look at", "GNU GENERAL PUBLIC LICENSE", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := kinds(c.text); !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
