#!/usr/bin/perl
# Follow one session from Perl: ZMQ::FFI (Debian: libzmq-ffi-perl) and docs/protocol.md.
#
#   perl follow.pl RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]
use strict;
use warnings;
use utf8;
use open qw(:std :utf8);
use JSON::PP;
use Time::HiRes qw(time sleep);
use ZMQ::FFI;
use ZMQ::FFI::Constants qw(ZMQ_SUB ZMQ_DEALER ZMQ_SNDHWM ZMQ_LINGER);

my ($run, $session, $lose) = @ARGV;
die "usage: follow.pl RUN_FOLDER SESSION_ID [EVENT_TO_LOSE]\n" unless defined $session;
$lose //= 0;
$| = 1;
my ($home) = $session =~ /^s(\d+)-/ or die "$session is no session id\n";
my $json = JSON::PP->new->utf8;

my $context = ZMQ::FFI->new();
my $events = $context->socket(ZMQ_SUB);
$events->set(ZMQ_SNDHWM, 'int', 0);         # subscriptions are messages, too
$events->subscribe("event/$session/");      # before connecting
$events->connect("ipc://$run/session-$home.events");
my ($heard_at, $warned) = (time, 0);
my $commands = $context->socket(ZMQ_DEALER);
$commands->set(ZMQ_LINGER, 'int', 0);
$commands->connect("ipc://$run/session-$home.commands");

my $last = 0;         # everything up to here was shown
my $newest = 0;       # known to exist
my %incs;             # the publisher's incarnations heard so far
my $again = 0;        # how many had to be asked for
my ($request, $asked_at, $requests, $over) = (undef, 0, 0, 0);

until ($over) {
    my $idle = 1;
    while (!$over && $events->has_pollin) {
        my @frames = $events->recv_multipart();
        came($json->decode($frames[1]), 1);
        $idle = 0;
    }
    while (!$over && $commands->has_pollin) {
        my @frames = $commands->recv_multipart();
        answered($json->decode($frames[-1]));
        $idle = 0;
    }
    ($heard_at, $warned) = (time, 0) unless $idle;
    # A session process says something each second.
    warn "nothing answers at ipc://$run/session-$home.events: "
        . "is voicebus up, and is that its run folder? still waiting\n"
        if time - $heard_at > 3 && !$warned++;
    # No answer yet: again, with the same id.
    ask($request) if defined $request && time - $asked_at > 0.5;
    sleep 0.01 if $idle;
}

# An event, live or again.
sub came {
    my ($event, $live) = @_;
    my $data = $event->{data};
    my $is_new = !$incs{ $event->{inc} }++;
    if ($event->{kind} eq 'welcome') {      # our subscription is active from here on
        print "following $session\n";
        hear($data->{heads}{$session} // 0, $is_new);
    } elsif ($event->{kind} eq 'head') {    # each second: shows a lost tail
        hear($data->{seq}, $is_new);
    } elsif (!defined $event->{seq}) {
        return;
    } elsif ($live && $event->{seq} == $lose) {
        $lose = 0;                          # as a full queue would
        return;
    } else {
        $newest = max($newest, $event->{seq});
        # Else a repetition, or something before it is missing.
        if ($event->{seq} == $last + 1) {
            $last++;
            $again++ unless $live;
            show($event->{kind}, $data);
        }
    }
    # A welcome tells of live sessions only: one that is over has its events all the same.
    look($event->{kind} eq 'welcome') if $live;
}

# The publisher says how far it is.
sub hear {
    my ($head, $is_new) = @_;
    # It has just come: the one before lost its journal, and what follows is new under numbers
    # used before.
    $last = $newest = $head if $is_new && 0 < $head && $head < $last;
    $newest = max($newest, $head);
}

# Is something missing? Asked for page by page.
sub look {
    my ($anyway) = @_;
    if (($anyway || $newest > $last) && !defined $request && !$over) {
        printf "events %d to %d are missing: asking for them\n", $last + 1, $newest
            if $last && $newest > $last;
        ask(new_id());
    }
}

# For a page of what is missing.
sub ask {
    ($request) = @_;
    $asked_at = time;
    $commands->send($json->encode({
        v => 1, id => $request, command => 'replay', session_id => $session,
        data => { from => $last + 1, limit => 200 },
    }));
}

# By the owner of the events.
sub answered {
    my ($reply) = @_;
    return unless defined $request && $reply->{id} eq $request;    # else to a repetition
    undef $request;
    if ($reply->{ok}) {
        came($_, 0) for @{ $reply->{data}{events} };
        hear($reply->{data}{next} // 0, 0);
        look(0);
    } elsif ($reply->{error}{retry}) {
        ask(new_id());
    } else {
        die "the session says: $reply->{error}{message}\n";
    }
}

# What is said, and the end.
sub show {
    my ($kind, $data) = @_;
    if ($kind eq 'user_transcript') {
        print "caller: $data->{text}\n";
    } elsif ($kind eq 'assistant_transcript' || $kind eq 'assistant_text') {
        print "assistant: $data->{text}\n";
    } elsif ($kind eq 'session_closed') {
        $over = 1;
        print "complete: $last events, $again of them asked for again\n";
    }
}

sub new_id { return sprintf 'perl-%d-%d-%d', $$, time * 1000, ++$requests }

sub max { return $_[0] > $_[1] ? $_[0] : $_[1] }
