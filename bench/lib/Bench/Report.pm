# SPDX-License-Identifier: Apache-2.0
package Bench::Report;

# Figures of all rounds → one Markdown text. A ratio is taken inside a round, then the median of the rounds: the machine
# is noisy, and what disturbs one server of a round mostly disturbs its neighbours too.

use strict;
use warnings;
use utf8;
use Exporter 'import';
use Bench::Servers qw(is_chatstream variant);

our @EXPORT_OK = qw(report);

sub median {
    my @v = sort { $a <=> $b } grep { defined } @_;
    return undef if !@v;
    return @v % 2 ? $v[$#v / 2] : ($v[@v / 2 - 1] + $v[@v / 2]) / 2;
}

sub med { my ($rounds, $key) = @_; return median(map { $_ ? $_->{$key} : undef } @{ $rounds // [] }) }

sub ratio {
    my ($a, $b, $key) = @_;
    my @r;
    for my $i (0 .. $#{ $a // [] }) {
        my ($x, $y) = ($a->[$i] && $a->[$i]{$key}, $b && $b->[$i] && $b->[$i]{$key});
        push @r, $x / $y if defined $x && $y;
    }
    return median(@r);
}

sub num { my ($v, $digits) = @_; return defined $v ? sprintf("%.${digits}f", $v) : '–' }
sub ms  { my ($v) = @_; return defined $v ? sprintf('%.2f', $v / 1000) : '–' }

sub failures {
    my ($rounds) = @_;
    my $n = 0;
    $n += $_ ? $_->{failed} // 1 : 0 for @$rounds;
    return $n;
}

sub table {
    my ($title, $head, @rows) = @_;
    my $text = "### $title\n\n| " . join(' | ', @$head) . " |\n|" . join('|', '---', map { '--:' } 2 .. @$head) . "|\n";
    $text .= '| ' . join(' | ', @$_) . " |\n" for @rows;
    return "$text\n";
}

sub steady_table {
    my ($load, $plan, $by, @names) = @_;
    my @rows = map {
        my $r = $by->{$_};
        [$Bench::Servers::title{$_}, num(med($r, 'us_event'), 1), num(ratio($r, $by->{nginx}, 'us_event'), 2),
            ms(med($r, 'p50')), ms(med($r, 'p99')), num(ratio($r, $by->{nginx}, 'p99'), 2), num(med($r, 'cores'), 2),
            num(med($r, 'held'), 1), failures($r)]
    } @names;
    return table("$load: $plan->{label}, 32-byte tokens", ['server', 'CPU µs/event', '÷ nginx', 'delay p50 ms',
        'delay p99 ms', '÷ nginx', 'cores used', '% of rate', 'failed'], @rows);
}

sub burst_table {
    my ($load, $plan, $by, @names) = @_;
    my @rows = map {
        my $r = $by->{$_};
        [$Bench::Servers::title{$_}, num(med($r, 'us_stream'), 0), num(ratio($r, $by->{nginx}, 'us_stream'), 2),
            num(med($r, 'per_s'), 0), num(ratio($r, $by->{nginx}, 'per_s'), 2), ms(med($r, 'p99')), failures($r)]
    } @names;
    return table("$load: $plan->{label}", ['server', 'CPU µs/stream', '÷ nginx', 'streams/s',
        '÷ nginx', 'delay p99 ms', 'failed'], @rows);
}

sub idle_table {
    my ($load, $plan, $by, @names) = @_;
    my @rows = map {
        my $r = $by->{$_};
        my ($all, $shared) = (med($r, 'kib_stream'), med($r, 'shmem_stream'));
        [$Bench::Servers::title{$_}, num($all, 1), num(defined $all ? $all - $shared : undef, 1), num($shared, 1),
            num(ratio($r, $by->{nginx}, 'kib_stream'), 2), num(med($r, 'base_mib'), 1), num(med($r, 'open'), 0),
            failures($r)]
    } @names;
    return table("$load: $plan->{label}", ['server', 'KiB/stream', 'of it private', 'of it shared', '÷ nginx',
        'MiB before', 'open', 'failed'], @rows);
}

sub growth_table {
    my ($load, $plans, $result, @names) = @_;
    my @rows;
    for my $name (@names) {
        my $base = $result->{ $plans->[0]{label} }{$name};
        for my $plan (@$plans) {
            my $r = $result->{ $plan->{label} }{$name} or next;
            my $size = $plan->{size} . ($plan->{children} ? ", $plan->{children} children" : '');
            push @rows, [$Bench::Servers::title{$name}, $size,
                num(med($r, 'us_event'), 1), num(ratio($r, $base, 'us_event'), 2),
                num(ratio($r, $result->{ $plan->{label} }{nginx}, 'us_event'), 2), ms(med($r, 'p99')),
                num(med($r, 'held'), 1), failures($r)];
        }
    }
    return table("$load: growth, every stream 2 events/s", ['server', 'streams', 'CPU µs/event',
        "÷ $plans->[0]{size} streams", '÷ nginx', 'delay p99 ms', '% of rate', 'failed'], @rows);
}

sub churn_table {
    my ($load, $plan, $by, @names) = @_;
    my @rows = map {
        my $r = $by->{$_};
        [$Bench::Servers::title{$_}, num(med($r, 'us_stream'), 0), num(med($r, 'us_event'), 1), num(med($r, 'per_s'), 0),
            ms(med($r, 'p50')), ms(med($r, 'p99')), failures($r)]
    } @names;
    return table("$load: $plan->{label}, beginning and ending all the time", ['server', 'CPU µs/stream', 'CPU µs/event',
        'streams/s', 'delay p50 ms', 'delay p99 ms', 'failed'], @rows);
}

sub sustained_table {
    my ($load, $plan, $by, @names) = @_;
    my @rows = map {
        my $r = $by->{$_};
        my $drain = med($r, 'full_drain');
        [$Bench::Servers::title{$_}, num(med($r, 'held_per_s'), 0), num(med($r, 'lost_per_s'), 0),
            num(med($r, 'full_per_s'), 0), num(med($r, 'full_behind'), 0), num($drain, 1), failures($r)]
    } @names;
    return table("$load: sustained, $plan->{label}", ['server', 'streams/s held', 'not held', 'streams/s without pause',
        'records behind at its end, streams', 's until they are there', 'failed'], @rows);
}

# One row for each variant and load: against the plain module in the same round. CPU is httpd's, up to the last record.
sub cost_table {
    my ($meta, $plans, $result, @names) = @_;
    my @rows;
    for my $plan (map { @{ $plans->{$_} } } @{ $meta->{loads} }) {
        my $by = $result->{ $plan->{label} } // next;
        my ($plain, $unit) = ($by->{chatstream}, $plan->{kind} eq 'burst' ? 'us_stream' : 'us_event');
        next if $plan->{kind} !~ /^(?:burst|steady)$/ || !grep { $by->{$_} && %{ variant($_) } } @names;
        for my $name (grep { $by->{$_} && is_chatstream($_) } @names) {
            my $r = $by->{$name};
            my ($cpu, $per, $digits) = (med($r, $unit), $unit eq 'us_event' ? ('event', 1) : ('stream', 0));
            push @rows, [$plan->{short}, $Bench::Servers::title{$name},
                defined $cpu ? num($cpu, $digits) . " /$per" : '–',
                num(ratio($r, $plain, $unit), 2), num(med($r, 'db_stream'), 0), ms(med($r, 'p99')),
                num(ratio($r, $plain, 'p99'), 2), num(med($r, 'drain'), 1), failures($r)];
        }
    }
    return '' if !@rows;
    return table('What the gate and the records cost', ['load', 'server', 'CPU µs', '÷ plain', 'CPU of PostgreSQL µs/stream',
        'delay p99 ms', '÷ plain', 'records complete after s', 'failed'], @rows);
}

sub goal {
    my ($what, $figure, $limit, $digits) = @_;
    return if !defined $figure;
    my $met = $figure <= $limit ? '**met**' : '**not met**';
    return [$what, num($figure, $digits), "≤ $limit", $met];
}

# Section 10's goals, each by its own figure; a goal whose load or reference was not run is left out.
sub goals {
    my ($plans, $result) = @_;
    my @goals;
    my $by = sub { my ($plan) = @_; return @{ $result->{ $plan->{label} } // {} }{qw(chatstream nginx)} };
    my ($cs, $nginx) = $by->($plans->{load1}[0]);
    push @goals, goal('CPU per event ÷ nginx', ratio($cs, $nginx, 'us_event'), 1, 2);
    push @goals, goal('added delay p99 ÷ nginx', ratio($cs, $nginx, 'p99'), 1, 2);
    for my $plan (@{ $plans->{load2} }) {
        push @goals, goal("CPU per burst stream ÷ nginx, connections $plan->{size}",
            ratio($by->($plan), 'us_stream'), 2, 2);
    }
    push @goals, goal('KiB per idle stream', med(($by->($plans->{load3}[0]))[0], 'kib_stream'), 32, 1);
    my ($first, @more) = @{ $plans->{load4} };
    my ($few, $nginx_few) = $by->($first);
    my $base = ratio($few, $nginx_few, 'us_event');
    for my $plan (@more) {
        my ($many, $nginx_many) = $by->($plan);
        my $beside = ratio($many, $nginx_many, 'us_event');
        push @goals, goal("CPU per event, $plan->{size} streams ÷ $first->{size} streams",
            ratio($many, $few, 'us_event'), 1.1, 2);
        push @goals, goal("the same, each first ÷ nginx", $beside / $base, 1.1, 2) if $base && $beside;
    }
    for my $plan ($plans->{load1}[0], $plans->{load5}[0]) {
        my ($frozen, $works) = @{ $result->{ $plan->{label} } // {} }{qw(chatstream-frozen chatstream-pgsql)};
        push @goals, goal("added delay p99 with PostgreSQL frozen ÷ undisturbed, $plan->{short}",
            ratio($frozen, $works, 'p99'), 1.1, 2);
    }
    my ($ran, $failed) = (0, 0);
    for my $rounds (grep { $_ } map { my $by = $_; map { $by->{$_} } grep { is_chatstream($_) } keys %$by } values %$result) {
        $ran = 1;
        $failed += failures($rounds);
    }
    push @goals, goal('streams failed, all loads', $failed, 0, 0) if $ran;
    return '' if !@goals;
    return table('Goals of DESIGN section 10 (mod_chatstream)', ['goal', 'figure', 'limit', ''], @goals);
}

# What a reader must know about one measurement before trusting its figures.
sub remarks {
    my ($f) = @_;
    return "could not be measured: $f->{broken}" =~ s/\n.*//sr if $f->{broken};
    my @say;
    push @say, "$f->{failed} failed; first: $f->{first_failure}" if $f->{failed};
    push @say, 'its processes changed meanwhile, CPU figures miss some' if $f->{processes_changed};
    push @say, 'did not end on SIGTERM within 15 s' if !$f->{clean_stop};
    push @say, sprintf('merges tokens: %.2f events per token', $f->{events}) if ($f->{events} // 1) < 0.99;
    push @say, sprintf('others on this machine used %.2f cores meanwhile', $f->{others}) if ($f->{others} // 0) > 0.25;
    return @say;
}

sub notes {
    my ($result) = @_;
    my (@notes, @others);
    for my $label (sort keys %$result) {
        for my $name (sort keys %{ $result->{$label} }) {
            my $rounds = $result->{$label}{$name};
            for my $i (grep { $rounds->[$_] } 0 .. $#$rounds) {
                push @others, $rounds->[$i]{others} // ();
                push @notes, map { "$label, $name, round " . ($i + 1) . ": $_" } remarks($rounds->[$i]);
            }
        }
    }
    push @notes, sprintf('CPU used by others on this machine in the measured windows: median %.2f cores',
        median(@others)) if @others;
    return join('', map { "- $_\n" } @notes) . "\n";
}

sub report {
    my ($meta, $plans, $result, $names) = @_;
    my $text = "# Side by side, $meta->{date}\n\n$meta->{about}\n\n";
    my %make = (load1 => \&steady_table, load2 => \&burst_table, load3 => \&idle_table, load5 => \&churn_table,
        load6 => \&sustained_table);
    for my $load (@{ $meta->{loads} }) {
        my @plans = @{ $plans->{$load} };
        my @ran = grep { my $n = $_; grep { $result->{ $_->{label} }{$n} } @plans } @$names;
        next if !@ran;
        $text .= $load eq 'load4' ? growth_table($load, \@plans, $result, @ran)
            : join '', map { $make{$load}->($load, $_, $result->{ $_->{label} }, @ran) } @plans;
    }
    return $text . cost_table($meta, $plans, $result, @$names) . goals($plans, $result) . notes($result);
}

1;
