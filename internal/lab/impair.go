package lab

import (
	"fathom/internal/lab/emulator"
	"fathom/internal/lab/emulator/unit"
)

// configs are the emulator's settings for the two directions of a link; a nil
// Impair is a perfect cable.
func (i *Impair) configs() (ab, ba emulator.Config) {
	if i == nil {
		return ab, ba
	}
	a, b := i.AtoB, i.BtoA
	if i.Both != nil {
		a, b = i.Both, i.Both
	}
	return a.config(), b.config()
}

// config says the same to the emulator.
func (d *Direction) config() emulator.Config {
	if d == nil {
		return emulator.Config{}
	}
	c := emulator.Config{Classes: d.Classes}
	c.Delay, c.Jitter = d.Delay.Std(), d.Jitter.Std()
	c.Loss.Random, c.Loss.Every = share(d.Loss), d.LossEvery
	if g := d.LossGilbert; g != nil {
		c.Loss.GE = &emulator.GilbertElliott{P: share(g.P), R: share(g.R), Good: share(g.Good), Bad: 1}
		if g.Bad != nil {
			c.Loss.GE.Bad = share(*g.Bad)
		}
	}
	if b := d.LossBurst; b != nil {
		c.Loss.Burst = &emulator.Burst{Packets: b.Packets, For: b.For.Std(), Period: b.Period.Std()}
	}
	c.Duplicate, c.Corrupt, c.Reorder = share(d.Duplicate), share(d.Corrupt), share(d.Reorder)
	c.Rate, c.Police = unit.Rate(d.Rate), d.Police
	c.Queue.Packets = d.Queue
	c.MaxFrame, c.Blackhole = d.MaxFrame, d.Blackhole
	return c
}

func share(p Percent) unit.Share { return unit.Share(p.Ratio()) }
